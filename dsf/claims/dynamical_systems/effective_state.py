"""How close a system of n states can come to softmax attention: values of a Hankel block."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import held
from dsf.claims.dynamical_systems.drawn import normal
from dsf.evaluate import attention_map
from dsf.evaluate.realisation import reduce
from dsf.measures import hankel_singular_values
from dsf.mixers import SoftmaxAttention

STEPS = 128
HALF = STEPS // 2
WIDTHS_AND_SCALES = ((4, 0.5), (4, 1.0), (4, 2.0), (16, 1.0), (16, 2.0), (64, 1.0))
ORDERS = (4, 8, 16, 32)
SHARES = (1e-1, 1e-2, 1e-3, 1e-6)
RELATIVE = 1e-10


def softmax_map(width: int, scale: float) -> Float[Tensor, "time time"]:
    """Gaussian queries and keys, logits ``scale q.k / sqrt(width)``."""
    rng = np.random.default_rng(0)
    query, key = normal(rng, STEPS, width), normal(rng, STEPS, width)
    mixer = SoftmaxAttention(query=query, key=key, value=key, scale=scale * width**-0.5)
    return attention_map(mixer.system())


def discarded(values: Float[Tensor, "maps order"], states: int) -> Float[Tensor, " maps"]:
    """σ_{n+1}: the largest singular value that n states cannot represent."""
    return values[:, states]


def best_error(bound: Callable[[Tensor, int], Tensor] = discarded) -> Certificate:
    """Reduce every map to n states and compare the error on the middle block with the bound."""
    weights = torch.stack([softmax_map(*each) for each in WIDTHS_AND_SCALES])
    values = hankel_singular_values(weights, positions=[HALF - 1])[:, 0]
    bounds = torch.stack([bound(values, states) for states in ORDERS])
    reduced = torch.stack([_error(weights, _reduced(weights, states)) for states in ORDERS])
    nearest = torch.stack([_error(weights, _nearest(weights, states)) for states in ORDERS])
    counts = torch.stack([(values > share * values[:, :1]).sum(dim=-1) for share in SHARES])
    least = torch.minimum(reduced, nearest)
    return held(
        "no system of n states comes closer to a softmax map than σ_{n+1} of its middle block, and "
        "fewer than floor(L/2) of these values exceed one hundredth of the largest",
        {
            "no error is below the bound": bool((least >= bounds * (1 - RELATIVE)).all()),
            "the best block of rank n attains it": bool((nearest <= bounds * (1 + RELATIVE)).all()),
            "the effective state is below floor(L/2)": bool((counts[1] < HALF).all()),
        },
        method="128 tokens, Gaussian queries and keys, n = 4, 8, 16, 32, spectral norm, float64",
        figures={
            f"key width {width}, scale {scale}": {
                "states above 1e-1, 1e-2, 1e-3, 1e-6": counts[:, k].tolist(),
                "singular values": values[k].tolist(),
                "errors of the reduction to 4, 8, 16, 32 states": reduced[:, k].tolist(),
            }
            for k, (width, scale) in enumerate(WIDTHS_AND_SCALES)
        },
    )


def _reduced(weights: Tensor, states: int) -> Tensor:
    """The middle block of the map of the system reduced to so many states."""
    return _middle(attention_map(reduce(weights, order=states).system))


def _nearest(weights: Tensor, states: int) -> Tensor:
    """The nearest block of that rank."""
    left, values, right = torch.linalg.svd(_middle(weights))
    return (left[..., :states] * values[..., None, :states]) @ right[..., :states, :]


def _error(weights: Tensor, block: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(_middle(weights) - block, ord=2)


def _middle(weights: Tensor) -> Tensor:
    return weights[..., HALF:, :HALF]


CLAIMS = (
    Claim(
        id="DSF-9",
        table=Table.OWN,
        statement=(
            "No system of n states comes closer to a map than σ_{n+1} of a Hankel block, and the "
            "effective state of softmax attention lies below ⌊L/2⌋."
        ),
        standing=Standing.OWN,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=best_error,
        note=(
            "Far below only for narrow keys and small logits: of 64, one hundredth of the "
            "largest singular value leaves 16 at key width 4 and scale 0.5, but 58 at width 64."
        ),
    ),
)
