"""Whether the coefficients of one query see in which order the past came."""

from collections.abc import Callable
from itertools import permutations

import numpy as np
import sympy
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing
from dsf.claims.deciding import argued
from dsf.evaluate import respond
from dsf.mixers import LinearAttention, Retention, SoftmaxAttention
from dsf.mixers.base import Mixer

STEPS, WIDTH, CHANNELS = 16, 4, 3
DECAY = 0.8
NEAR, APART = 1e-12, 0.1

Build = Callable[[Tensor, Tensor, Tensor], Mixer]


def softmax(
    query: Float[Tensor, "time key"],
    key: Float[Tensor, "time key"],
    value: Float[Tensor, "time channel"],
) -> Mixer:
    """A = I, phi = exp."""
    return SoftmaxAttention(query=query, key=key, value=value)


def linear(
    query: Float[Tensor, "time key"],
    key: Float[Tensor, "time key"],
    value: Float[Tensor, "time channel"],
) -> Mixer:
    """A = I, phi = identity."""
    return LinearAttention(
        query=query, key=key, value=value, feature_map=torch.Tensor.clone, normalised=False
    )


def decaying(
    query: Float[Tensor, "time key"],
    key: Float[Tensor, "time key"],
    value: Float[Tensor, "time channel"],
) -> Mixer:
    """A = 0.8 I, phi = identity."""
    return Retention(query=query, key=key, value=value, decay=query.new_tensor(DECAY))


def blind_without_decay(blind: tuple[Build, ...] = (softmax, linear)) -> Certificate:
    """Permute three past pairs with symbols, and fifteen with numbers; compare the last output."""
    rng = np.random.default_rng(0)
    query, key, value = (
        torch.tensor(rng.standard_normal((STEPS, width))) for width in (WIDTH, WIDTH, CHANNELS)
    )
    order = torch.tensor([*rng.permutation(STEPS - 1), STEPS - 1])
    off = max(_change(build, query, key, value, order) for build in blind)
    seen = _change(decaying, query, key, value, order)
    return argued(
        "with A = I the coefficients are blind to the order of the past, with A != I they are not",
        "with A = I the output is a function of the set of pairs (k_j, v_j): a sum over them, "
        "divided by a sum over them",
        {
            "no permutation of the past moves the output for A = I, with symbols": (
                not _moved_by_permutation(sympy.S.One)
            ),
            "one does for A = a I, with symbols": _moved_by_permutation(sympy.Symbol("a")),
            f"nor does it move softmax or linear attention by more than {NEAR:g}": off <= NEAR,
            f"but attention with decay {DECAY}": seen > APART,
        },
        method="symbols for three past tokens; 16 tokens, d = 4, one random permutation",
        observed=off,
        figures={"change with A = I": off, f"change with decay {DECAY}": seen},
    )


def _moved_by_permutation(a: sympy.Expr) -> bool:
    """Whether some order of three past pairs gives another last output, A = a I."""
    phi = sympy.Function("phi")
    scores, values = sympy.symbols("s1:4"), sympy.symbols("v1:4")

    def output(order: tuple[int, ...]) -> sympy.Expr:
        weights = [phi(a ** (3 - place) * scores[j]) for place, j in enumerate(order)]
        written = [w * values[j] for w, j in zip(weights, order, strict=True)]
        return sum(written) / sum(weights)

    plain = output((0, 1, 2))
    return any(output(order) != plain for order in permutations(range(3)))


def _change(build: Build, query: Tensor, key: Tensor, value: Tensor, order: Tensor) -> float:
    """How far the last output moves when the past is reordered."""
    mixers = build(query, key, value), build(query, key[order], value[order])
    before, after = (respond(mixer.system(), mixer.signal())[-1] for mixer in mixers)
    return (before - after).abs().max().item()


CLAIMS = (
    Claim(
        id="CDY-1",
        statement="With A = I the coefficients are blind to the order of the past; with A ≠ I they "
        "are not.",
        standing=Standing.SECOND_HAND,
        expected=Verdict.PROVED,
        check=blind_without_decay,
    ),
)
