"""Separable attention as a system: the normaliser in B, and when it is a state-space duality."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing
from dsf.claims.deciding import held, refuted
from dsf.claims.dynamical_systems.drawn import normal, projected_tokens, uniform
from dsf.evaluate import attention_map
from dsf.ingredients import elu_plus_one
from dsf.measures import largest_difference
from dsf.mixers import LinearAttention, StateSpaceDuality
from dsf.system import System
from dsf.transition import ScaledIdentity

ROUNDING = 1e-12
Normaliser = Callable[[Tensor, Tensor], Tensor]


def separable(
    read: Float[Tensor, "*batch time state"],
    write: Float[Tensor, "*batch time state"],
    normaliser: Float[Tensor, "*batch time"],
    *,
    divisor: Float[Tensor, "*batch time"] | None = None,
) -> System:
    """A_i = (η_{i-1}/η_i) I, B_i = ψ_i/divisor_i, C_i = φ_i; the divisor is η_i when absent."""
    ratios = normaliser[..., :-1] / normaliser[..., 1:]
    kept = torch.cat([torch.ones_like(normaliser[..., :1]), ratios], dim=-1)
    divisor = normaliser if divisor is None else divisor
    return System.from_write_and_read(
        ScaledIdentity(kept, write.shape[-1]), write / divisor.unsqueeze(-1), read
    )


def row_sums_in_reach(
    read: Float[Tensor, "time state"], write: Float[Tensor, "time state"]
) -> Float[Tensor, " time"]:
    """The normaliser of linear attention, η_i = Σ_{j<=i} φ_i.ψ_j."""
    return (read * write.cumsum(dim=0)).sum(dim=-1)


def of_token_before(normaliser: Float[Tensor, " time"]) -> Float[Tensor, " time"]:
    """η_{i-1}; the first token has none before it and takes its own."""
    return torch.cat([normaliser[:1], normaliser[:-1]])


def write_index(divisor: Callable[[Tensor], Tensor] = of_token_before) -> Certificate:
    """Build linear attention with this divisor in B and with η_i, and compare their maps."""
    query, key, value = projected_tokens()
    mixer = LinearAttention(query=query, key=key, value=value)
    read, write = elu_plus_one(query), elu_plus_one(key)
    eta = row_sums_in_reach(read, write)
    expected = attention_map(mixer.system())
    claimed = attention_map(separable(read, write, eta, divisor=divisor(eta)))
    own = float(largest_difference(attention_map(separable(read, write, eta)), expected))
    error = float(((claimed - expected) @ value).abs().max())
    return refuted(
        "with the normaliser of the token before in B the map is that of linear attention",
        error if own < ROUNDING else float("nan"),
        beyond=ROUNDING,
        witness={
            "normalisers of tokens 1, 2": eta[:2].tolist(),
            "weight of token 2 on itself, as claimed": float(claimed[1, 1]),
            "the same weight of linear attention": float(expected[1, 1]),
            "largest output error": error,
            "largest error with the token's own normaliser": own,
        },
        method="20 tokens, key width 4, elu + 1, float64",
    )


def duality_condition(normaliser: Normaliser = row_sums_in_reach) -> Certificate:
    """Give a token-wise ratio its step, and look for the step that linear attention would need."""
    query, key, _ = projected_tokens()
    read, write = elu_plus_one(query), elu_plus_one(key)
    eta = normaliser(read, write)
    ratios = eta[:-1] / eta[1:]
    other = write.clone()
    other[0] += 1
    moved = normaliser(read, other)
    change = (moved[:-1] / moved[1:] - ratios)[1:].abs()  # of tokens that did not change
    error = _error_as_duality(read, write)
    return held(
        "a ratio of normalisers in (0, 1] that depends on its own token only is the decay of a "
        "state-space duality, and the ratios of linear attention are not of that kind",
        {
            "a token-wise ratio in (0, 1] gives the same map": error < ROUNDING,
            "some ratios of linear attention lie above 1": bool((ratios > 1).any()),
            "they depend on earlier tokens": bool((change > ROUNDING).all()),
        },
        method="20 tokens, key width 4, elu + 1, float64",
        observed=error,
        figures={"smallest ratio": float(ratios.min()), "largest ratio": float(ratios.max())},
    )


def _error_as_duality(read: Tensor, write: Tensor) -> float:
    """One drawn ratio per token against the duality with step -log ratio."""
    steps = len(read)
    ratio = uniform(np.random.default_rng(0), steps, low=0.3, high=1.0)
    eta = 1 / ratio.cumprod(dim=0)
    step = -ratio.log()
    duality = StateSpaceDuality(
        value=normal(np.random.default_rng(0), 1, steps, 1),
        step=step.unsqueeze(0),
        pole=-torch.ones_like(step[:1]),
        write=(write / (eta * step).unsqueeze(-1)).unsqueeze(0),
        read=read.unsqueeze(0),
    )
    maps = attention_map(duality.system())[0], attention_map(separable(read, write, eta))
    return float(largest_difference(*maps))


CLAIMS = (
    Claim(
        id="DSF-2",
        statement=(
            "In the state-space form of separable attention B_i carries one over the normaliser "
            "of the previous token."
        ),
        standing=Standing.SECOND_HAND,
        expected=Verdict.REFUTED,
        check=write_index,
        note=(
            "Only the token's own normaliser gives the map: then the ratios in A telescope to "
            "1/η_i. Whether the slip is the paper's or that of the review it was seen in is open."
        ),
    ),
    Claim(
        id="DSF-14",
        statement=(
            "A separable attention is of state-space duality type if and only if η_{i-1}/η_i lies "
            "in (0, 1] and depends on token i only."
        ),
        standing=Standing.DERIVED,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=duality_condition,
        note=(
            "A statement about coefficients: moving η from A into C gives every separable map a "
            "system with A = I."
        ),
    ),
)
