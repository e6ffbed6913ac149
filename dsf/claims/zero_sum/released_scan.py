"""The released scan, written down again in a few lines, and the algorithm that it stands for."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, shown
from dsf.claims.zero_sum.forms import read_factors
from dsf.claims.zero_sum.weighing import Weigh, causal_map, radial
from dsf.evaluate import attention_map, respond
from dsf.mixers import ZeroSumAttention

TOKENS, WIDTH = 24, 8
ROUNDING = 1e-10


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


def paths_differ(weigh: Weigh = from_probabilities) -> Certificate:
    """The map of the explicit path against that of the scan, in Frobenius norm."""
    mixer = drawn()
    scanned, explicit = attention_map(mixer.system()), causal_map(mixer, weigh)
    missed = float((explicit - scanned).norm() / scanned.norm())
    return shown(
        "the scan and the explicit path of the released code give different maps",
        missed,
        beyond=1e-6,
        case={
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


def scan_sees_later_tokens(stabiliser: Stabiliser = largest_of_all) -> Certificate:
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
    return shown(
        "in float32 outputs of the released scan depend on later tokens",
        max(changes.values()),
        beyond=1e-3,
        case={"last_logit_raised": list(changes), "earlier_change": list(changes.values())},
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


def memory_grows_with_the_length(states: States = all_states) -> Certificate:
    """Count the numbers in memory for 16 and for 64 tokens."""
    rng = torch.Generator().manual_seed(0)
    held = []
    for tokens in (16, 64):
        raised, logits = torch.rand(2, tokens, generator=rng)
        key, value = torch.randn(2, tokens, WIDTH, generator=rng)
        held.append(states(raised, logits, key, value))
    numbers = [sum(part.numel() for part in parts) for parts in held]
    return shown(
        "the released scan forms tensors whose size grows with the length",
        numbers[1] / numbers[0] - 1,
        beyond=1e-6,
        case={
            "tensors": len(held[1]),
            "shape": list(held[1][0].shape),
            "numbers_at_16_tokens": numbers[0],
            "numbers_at_64_tokens": numbers[1],
        },
        method="every tensor that the scan forms for its sums, width 8",
    )


def algorithm_keeps_three_sums(states: States = last_states) -> Certificate:
    """What is kept after 16 and after 64 tokens, and that the last output can be read from it."""
    rng = torch.Generator().manual_seed(0)
    numbers, missed = [], []
    for tokens in (16, 64):
        query, key, value = torch.randn(3, 1, tokens, WIDTH, generator=rng, dtype=torch.float64)
        logit, first, higher = torch.randn(3, 1, tokens, generator=rng, dtype=torch.float64)
        mixer = ZeroSumAttention(
            query=query,
            key=key,
            value=value,
            logit=logit,
            first_order=first.sigmoid(),
            higher_order=higher.sigmoid(),
        )
        kept = states(logit[0].exp(), logit[0], normalize(key, dim=-1)[0], value[0])
        numbers.append(sum(part.numel() for part in kept))
        sums = torch.stack([part if part.ndim == 2 else part[-1] for part in kept[-3:]])
        factors = read_factors(mixer)[0, -1]
        read = normalize(query, dim=-1)[0, -1] @ (factors[:, None, None] * sums).sum(dim=0)
        output = respond(mixer.system(), mixer.signal())[0, -1, 0]
        missed.append(float((read - output).abs().max()))
    return argued(
        "three sums of d x d numbers are enough for the scan, whatever the length, and each token "
        "adds an outer product to each of them",
        "every weight is the sum of three products of a factor of the reading token and one of the "
        "written token",
        {
            "3 d² numbers at both lengths": numbers == [3 * WIDTH**2] * 2,
            "the output of the library is read from them": max(missed) <= ROUNDING,
        },
        method=f"16 and 64 tokens, width {WIDTH}, float64",
        observed=max(missed),
        figures={"numbers kept after 16 and 64 tokens": numbers},
    )


CLAIMS = (
    Claim(
        id="ZER-21",
        table=Table.CODE,
        statement=(
            "In SequenceLab the scan and the explicit path compute different maps: the explicit "
            "path takes its first-order term from softmax(s) instead of s."
        ),
        standing=Standing.CODE,
        expected=Verdict.ARGUED,
        check=paths_differ,
        place=(
            "LJC-FVNR/SequenceLab@cae594f: src/sequencelab/layers/zeros.py 158-168 against 122-133"
        ),
        note=(
            "SequenceLab calls itself a hub in prototype phase and names LJC-FVNR/ZeroS as the "
            "paper's repository, which was not seen."
        ),
    ),
    Claim(
        id="ZER-23",
        table=Table.CODE,
        statement="In SequenceLab outputs of the scan depend on later tokens in float32.",
        standing=Standing.CODE,
        expected=Verdict.ARGUED,
        check=scan_sees_later_tokens,
        place="LJC-FVNR/SequenceLab@cae594f: src/sequencelab/layers/zeros.py 103-105 and 127",
        note=(
            "Its stabiliser is the maximum of the whole sequence: a late logit far above the "
            "rest drives the exponentials of earlier tokens below the constant added to their "
            "sum. SequenceLab calls itself a hub in prototype phase and names LJC-FVNR/ZeroS as "
            "the paper's repository, which was not seen."
        ),
    ),
    Claim(
        id="ZER-25",
        table=Table.PAPER,
        statement=(
            "The scan needs three sums of d x d numbers and an update of each per token, "
            "whatever the length: O(N d²) time and O(d²) memory."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=algorithm_keeps_three_sums,
        quote=(
            "This scan keeps only O(d²) state (F_t, G_t, H_t) and updates in O(d²) per step, "
            "yielding overall O(Nd²) time and O(d²) memory while implementing the zero-sum "
            "weighting."
        ),
        place="Linear-Time Scan",
        hypotheses=("the algorithm, token by token",),
        note="The code in SequenceLab keeps more: ZER-30.",
    ),
    Claim(
        id="ZER-30",
        table=Table.CODE,
        statement="In SequenceLab the scan forms four tensors of L d² numbers.",
        standing=Standing.CODE,
        expected=Verdict.ARGUED,
        check=memory_grows_with_the_length,
        place="LJC-FVNR/SequenceLab@cae594f: src/sequencelab/layers/zeros.py 116-120",
        note=(
            "The algorithm needs O(d²): ZER-25. SequenceLab calls itself a hub in prototype "
            "phase and names LJC-FVNR/ZeroS as the paper's repository, which was not seen."
        ),
    ),
)
