"""Whether the coefficients of one query see in which order the past came."""

import math
from collections.abc import Callable
from itertools import permutations

import numpy as np
import sympy
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued
from dsf.evaluate import respond
from dsf.mixers import GatedLinearAttention, LinearAttention, Retention, SoftmaxAttention
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


def last_decays(
    query: Float[Tensor, "time key"],
    key: Float[Tensor, "time key"],
    value: Float[Tensor, "time channel"],
) -> Mixer:
    """A = diag(1, ..., 1, 1/2), phi = identity."""
    log_decay = torch.zeros_like(key)
    log_decay[:, -1] = -math.log(2)
    return GatedLinearAttention(query=query, key=key, value=value, log_decay=log_decay)


def blind_without_decay(blind: tuple[Build, ...] = (softmax, linear)) -> Certificate:
    """Permute three past pairs with symbols, and fifteen with numbers; compare the last output."""
    rng = np.random.default_rng(0)
    query, key, value = (
        torch.tensor(rng.standard_normal((STEPS, width))) for width in (WIDTH, WIDTH, CHANNELS)
    )
    order = torch.tensor([*rng.permutation(STEPS - 1), STEPS - 1])
    off = max(_change(build, query, key, value, order) for build in blind)
    seen = _change(decaying, query, key, value, order)
    flat = key.clone()
    flat[:, -1] = 0
    idle = _change(last_decays, query, flat, value, order)
    return argued(
        "with A = I coefficients are blind to the order of the past, with A != I they may see it",
        "with A = I the output is a function of the set of pairs (k_j, v_j): a sum over them, "
        "divided by a sum over them",
        {
            "no permutation of the past moves the output for A = I, with symbols": (
                not _moved_by_permutation(sympy.S.One)
            ),
            "one does for A = a I, with symbols": _moved_by_permutation(sympy.Symbol("a")),
            f"nor does it move softmax or linear attention by more than {NEAR:g}": off <= NEAR,
            f"but attention with decay {DECAY}": seen > APART,
            "while a decay of a coordinate that no key uses is as blind as A = I": idle <= NEAR,
        },
        method="symbols for three past tokens; 16 tokens, d = 4, one random permutation",
        observed=off,
        figures={
            "change with A = I": off,
            f"change with decay {DECAY}": seen,
            "change with an idle decay": idle,
        },
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
        table=Table.PAPER,
        statement=(
            "With A_t = I the coefficients are blind to the order of the past; with A_t ≠ I they "
            "need not be."
        ),
        standing=Standing.SECOND_HAND,
        expected=Verdict.ARGUED,
        check=blind_without_decay,
        quote=(
            "Setting A_t ≠ I embeds position into coefficients; A_t = I requires positional "
            "embeddings."
        ),
        place="ICLR 2026 review (OpenReview 9uChwgWHX9), R4, item 3",
        hypotheses=(
            ('R4: "per-query token the sequence mixing process is permutation invariant"'),
        ),
        note=(
            'R4 calls the lemma correct, R2 asks "Is Principle 3 true?". The second half is no '
            "universal: with A = diag(1, …, 1, 1/2) and keys whose last entry is zero the "
            "coefficients are as blind as with A = I."
        ),
    ),
)
