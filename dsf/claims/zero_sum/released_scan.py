"""Defects of the released scan, each written down again in a few lines as it is described."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing
from dsf.claims.deciding import refuted
from dsf.claims.zero_sum.weighing import Weigh, causal_map, radial
from dsf.evaluate import attention_map
from dsf.mixers import ZeroSumAttention

TOKENS, WIDTH = 24, 8


def drawn() -> ZeroSumAttention:
    """A radial mixer; queries and keys that it does not use are drawn in front of its logits."""
    rng = np.random.default_rng(0)
    rng.standard_normal((2, TOKENS, WIDTH))
    logit = torch.from_numpy(rng.standard_normal(TOKENS))
    first, higher = torch.from_numpy(rng.standard_normal((2, TOKENS))).sigmoid()
    return radial(logit, first, higher)


def from_probabilities(
    logits: Float[Tensor, " time"], first: float, higher: float
) -> Float[Tensor, " time"]:
    """The path without a scan: its first order deviates in softmax(s) where s is meant."""
    tokens = len(logits)
    share = torch.softmax(logits, dim=-1)
    deviation = (logits - logits.mean()) / tokens
    return first * (share - share.mean()) / tokens + higher * (share - 1 / tokens - deviation)


def paths_agree(weigh: Weigh = from_probabilities) -> Certificate:
    """The map of the explicit path against that of the scan, in Frobenius norm."""
    mixer = drawn()
    scanned, explicit = attention_map(mixer.system()), causal_map(mixer, weigh)
    missed = float((explicit - scanned).norm() / scanned.norm())
    return refuted(
        "the scan and the explicit path of the released code give one map",
        missed,
        beyond=1e-6,
        witness={
            "relative_difference": missed,
            "row_2_by_scan": scanned[1, :2].tolist(),
            "row_2_explicit": explicit[1, :2].tolist(),
        },
        method="24 tokens; first order of softmax(s) against first order of s",
    )


Stabiliser = Callable[[Tensor], Tensor]
"""What is taken from every logit before the exponential."""


def largest_of_all(logits: Float[Tensor, " time"]) -> Float[Tensor, ""]:
    """The maximum of the whole sequence, the future included."""
    return logits.max()


def stabilised_outputs(
    logits: Float[Tensor, " time"],
    values: Float[Tensor, "time channel"],
    stabiliser: Stabiliser,
) -> Float[Tensor, "time channel"]:
    """The scan without the angle at gates 1/2, in the number type of its arguments."""
    tokens = torch.arange(1, len(logits) + 1, dtype=logits.dtype).unsqueeze(-1)
    raised = (logits - stabiliser(logits)).exp().unsqueeze(-1)
    total = raised.cumsum(dim=0) + 1e-12
    return ((raised * values).cumsum(dim=0) / total - values.cumsum(dim=0) / tokens) / 2


def scan_is_causal(stabiliser: Stabiliser = largest_of_all) -> Certificate:
    """Raise the last logit and watch the outputs before it."""
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.standard_normal(TOKENS)).float()
    values = torch.from_numpy(rng.standard_normal((TOKENS, WIDTH))).float()
    before = stabilised_outputs(logits, values, stabiliser)
    changes: dict[float, float] = {}
    for raised in (20.0, 40.0):
        moved = logits.clone()
        moved[-1] += raised
        after = stabilised_outputs(moved, values, stabiliser)
        changes[raised] = float((after - before)[:-1].abs().max())
    return refuted(
        "in float32 no output of the released scan depends on later tokens",
        max(changes.values()),
        beyond=1e-3,
        witness={"last_logit_raised": list(changes), "earlier_change": list(changes.values())},
        method="24 tokens in float32, normaliser + 1e-12",
    )


States = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]
"""Exponentials, logits, keys, values: every tensor that is held for the sums."""


def all_states(
    raised: Float[Tensor, " time"],
    logits: Float[Tensor, " time"],
    key: Float[Tensor, "time key"],
    value: Float[Tensor, "time channel"],
) -> tuple[Tensor, ...]:
    """The products of every token and the three running sums, for all tokens at once."""
    product = key.unsqueeze(-1) * value.unsqueeze(-2)
    sums = [(scale[:, None, None] * product).cumsum(dim=0) for scale in (raised, logits)]
    return (product, *sums, product.cumsum(dim=0))


def last_states(
    raised: Float[Tensor, " time"],
    logits: Float[Tensor, " time"],
    key: Float[Tensor, "time key"],
    value: Float[Tensor, "time channel"],
) -> tuple[Tensor, ...]:
    """The three sums, one token after the other."""
    sums = value.new_zeros(3, key.shape[-1], value.shape[-1])
    scales = torch.stack([raised, logits, torch.ones_like(logits)], dim=-1)
    for t in range(len(key)):
        sums = sums + scales[t, :, None, None] * torch.outer(key[t], value[t])
    return tuple(sums)


def memory_is_quadratic_in_the_width(states: States = all_states) -> Certificate:
    """Count what is held for 16 and for 64 tokens."""
    rng = torch.Generator().manual_seed(0)
    held = []
    for tokens in (16, 64):
        raised, logits = torch.rand(2, tokens, generator=rng)
        key, value = torch.randn(2, tokens, WIDTH, generator=rng)
        held.append(states(raised, logits, key, value))
    numbers = [sum(part.numel() for part in parts) for parts in held]
    return refuted(
        "the released scan holds O(d²) numbers, whatever the length",
        numbers[1] / numbers[0] - 1,
        beyond=1e-6,
        witness={
            "tensors": len(held[1]),
            "shape": list(held[1][0].shape),
            "numbers_at_16_tokens": numbers[0],
            "numbers_at_64_tokens": numbers[1],
        },
        method="every tensor that the scan forms for its sums, width 8",
    )


CLAIMS = (
    Claim(
        id="ZER-21",
        statement="The scan and the explicit path of the released code compute the same layer.",
        standing=Standing.CODE,
        expected=Verdict.REFUTED,
        check=paths_agree,
        note="The explicit path takes its first-order term from softmax(s) instead of s.",
    ),
    Claim(
        id="ZER-23",
        statement="The released scan is causal in float32.",
        standing=Standing.CODE,
        expected=Verdict.REFUTED,
        check=scan_is_causal,
        note=(
            "Its stabiliser is the maximum of the whole sequence: a late logit far above the rest "
            "drives the exponentials of earlier tokens below the constant added to their sum."
        ),
    ),
    Claim(
        id="ZER-25",
        statement="The released linear-time scan needs O(d²) memory.",
        standing=Standing.STATED,
        expected=Verdict.REFUTED,
        check=memory_is_quadratic_in_the_width,
        note="True of the algorithm, token by token; the code forms four tensors of L d² numbers.",
    ),
)
