"""How weights and outputs depend on the length of the row and on the size of the logits."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing
from dsf.claims.deciding import held, refuted
from dsf.claims.zero_sum.bounds import derived_bound
from dsf.claims.zero_sum.weighing import Weigh, last_row
from dsf.composite import Operator
from dsf.evaluate import attention_map
from dsf.measures import uniform_share
from dsf.mixers import SoftmaxAttention

LENGTHS = (16, 64, 256, 1024, 4096)
LONGER = (*LENGTHS, 16384)
SCALES = (1.0, 10.0, 100.0, 1000.0)
SLACK = 0.1


def largest_weight_by_length(weigh: Weigh = last_row) -> list[float]:
    """t max|w| for logits uniform in -2 ... 2, drawn one length after the other; gates 1/2."""
    rng = np.random.default_rng(0)
    found = []
    for tokens in LENGTHS:
        logits = torch.from_numpy(rng.uniform(-2, 2, tokens))
        found.append(tokens * float(weigh(logits, 0.5, 0.5).abs().max()))
    return found


def largest_weight_shrinks_like_one_over_t(weigh: Weigh = last_row) -> Certificate:
    """Against the proven bound, and against the limit of long rows."""
    found = largest_weight_by_length(weigh)
    bound = float(derived_bound(2.0, np.exp(4.0), 0.5, 0.5))
    limit = float(0.5 * (np.exp(2.0) * 2 / np.sinh(2.0) - 1))
    return held(
        "t max|w| stays bounded when the logits do",
        {
            "within the proven bound": max(found) <= bound,
            "at most a tenth above the limit of long rows": max(found) <= (1 + SLACK) * limit,
        },
        method="logits uniform in -2 ... 2",
        observed=max(found),
        figures={"tokens": list(LENGTHS), "t_max_w": found, "bound": bound, "limit": limit},
    )


def output_norms(
    weigh: Callable[[Tensor], Tensor], scales: Sequence[float] = SCALES
) -> list[float]:
    """Norm of the output of one row of 64 unit values, at ``scales`` times fixed logits."""
    rng = np.random.default_rng(0)
    values = normalize(torch.from_numpy(rng.standard_normal((64, 8))), dim=-1)
    logits = torch.from_numpy(rng.standard_normal(64))
    return [float((weigh(scale * logits) @ values).norm()) for scale in scales]


def output_is_as_stable_as_softmax(first: float = 0.8, higher: float = 0.3) -> Certificate:
    """A softmax output is a mean of unit vectors and never longer than one."""
    norms = output_norms(lambda logits: last_row(logits, first, higher))
    return refuted(
        "the output of zero-sum attention is bounded by the values, as that of softmax is",
        norms[-1] - 1,
        beyond=1.0,
        witness={"gates": [first, higher], "logit_scales": list(SCALES), "output_norms": norms},
        method="64 unit values, drawn logits times a scale",
    )


def softmax_row(logits: Float[Tensor, " time"]) -> Operator:
    """The explicit map of one query over all keys."""
    return SoftmaxAttention(
        query=torch.ones(1, 1, dtype=logits.dtype),
        key=logits.unsqueeze(-1),
        value=logits.unsqueeze(-1),
        causal=False,
    ).system()


def bounded_softmax_dilutes(
    row: Callable[[Tensor], Operator] = softmax_row,
) -> Certificate:
    """The share of the uniform part in a row's energy for standard normal logits."""
    rng = np.random.default_rng(0)
    shares, inside = [], []
    for tokens in LONGER:
        logits = torch.from_numpy(rng.standard_normal(tokens))
        map, reach = row(logits), float(logits.abs().max())
        weights = attention_map(map)
        shares.append(float(uniform_share(map)))
        least, most = float(weights.min()) * tokens, float(weights.max()) * tokens
        inside.append(np.exp(-2 * reach) <= least <= most <= np.exp(2 * reach))
    limit = float(np.exp(-1.0))
    return held(
        "softmax rows of bounded logits have weights of order 1/t, and their uniform part keeps a "
        "fixed share of the energy",
        {
            "weights within exp(-2S)/t ... exp(2S)/t": all(inside),
            "the share ends within a tenth of 1/e": abs(shares[-1] / limit - 1) <= SLACK,
        },
        method="standard normal logits; share = 1/(t |p|²)",
        observed=shares[-1],
        figures={"tokens": list(LONGER), "uniform_share": shares, "limit": limit},
    )


CLAIMS = (
    Claim(
        id="ZER-14",
        statement="For bounded logits t max|w| stays bounded as the row grows.",
        standing=Standing.STATED,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=largest_weight_shrinks_like_one_over_t,
    ),
    Claim(
        id="ZER-15",
        statement="ZeroS has the same numerical stability as softmax.",
        standing=Standing.STATED,
        expected=Verdict.REFUTED,
        check=output_is_as_stable_as_softmax,
        note=(
            "Only with bounded logits: with unequal gates the output grows in proportion to the "
            "logits (0.10, 0.72, 6.3, 64 at scales 1 to 1000), a softmax output never exceeds its "
            "values."
        ),
    ),
    Claim(
        id="ZER-20",
        statement=(
            "Softmax with bounded logits dilutes: weights stay within e^{±2S}/t, and the uniform "
            "part of a row keeps a fixed share of its energy."
        ),
        standing=Standing.STATED,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=bounded_softmax_dilutes,
        note="For standard normal logits the share tends to 1/e.",
    ),
)
