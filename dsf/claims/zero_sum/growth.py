"""How weights and outputs depend on the length of the row and on the size of the logits."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import held, shown
from dsf.claims.zero_sum.bounds import derived_bound
from dsf.claims.zero_sum.weighing import Weigh, last_row
from dsf.evaluate import attention_map
from dsf.measures import uniform_share
from dsf.mixers import SoftmaxAttention
from dsf.mixers.ingredients import elu_plus_one
from dsf.systems.composite import Operator

LENGTHS = (16, 64, 256, 1024, 4096)
LONGER = (*LENGTHS, 16384)
SCALES = (1.0, 10.0, 100.0, 1000.0)
SLACK, HALF = 0.1, 0.5


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


REACH = 2.0
Logits = Callable[[Tensor], Tensor]


def bounded_logits_bounded_outputs(logits_of: Logits = torch.Tensor.clone) -> Certificate:
    """Outputs of unit values at growing length, logits in -2 ... 2, beside those of softmax.

    Args:
        logits_of: from drawn logits in -2 ... 2 to those that are weighed.
    """
    rng = np.random.default_rng(0)
    zero_sum, softmax = [], []
    for tokens in LENGTHS:
        logits = logits_of(torch.from_numpy(rng.uniform(-REACH, REACH, tokens)))
        weights = last_row(logits, 0.8, 0.3)
        values = weights.sign()  # unit values that add up as far as they can
        zero_sum.append(float((weights * values).sum()))
        softmax.append(float(logits.softmax(dim=-1).sum()))
    bound = float(derived_bound(REACH, np.exp(2 * REACH), 0.8, 0.3))
    return held(
        "for bounded logits the outputs of zero-sum attention stay within a constant times the "
        "values at every length, as those of softmax attention do",
        {
            "within the proven constant": max(zero_sum) <= bound,
            "not growing with the length": max(zero_sum) <= (1 + SLACK) * zero_sum[-1]
            or max(zero_sum) == zero_sum[0],
        },
        method="logits uniform in -2 ... 2, gates 0.8 and 0.3, the worst unit values",
        observed=max(zero_sum),
        figures={
            "tokens": list(LENGTHS),
            "largest output, zero-sum": zero_sum,
            "largest output, softmax": softmax,
            "proven constant": bound,
        },
    )


def output_grows_with_the_logits(first: float = 0.8, higher: float = 0.3) -> Certificate:
    """A softmax output is a mean of unit vectors and never longer than one."""
    norms = output_norms(lambda logits: last_row(logits, first, higher))
    return shown(
        "without a bound on the logits the output of zero-sum attention can grow with them, that "
        "of softmax cannot",
        norms[-1] - 1,
        beyond=1.0,
        case={"gates": [first, higher], "logit_scales": list(SCALES), "output_norms": norms},
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


Features = Callable[[Tensor], Tensor]


def linear_share_is_constant(feature_map: Features = elu_plus_one) -> Certificate:
    """The last row of linear attention over standard normal tokens, by length."""
    rng = np.random.default_rng(0)
    shares = []
    for tokens in LONGER:
        query, key = torch.from_numpy(rng.standard_normal((2, tokens, 8)))
        weights = feature_map(key) @ feature_map(query[-1:]).flatten()
        weights = weights / weights.sum()
        shares.append(float(1 / (tokens * weights.square().sum())))
    return held(
        "the uniform part of a row of linear attention over independent tokens has a large share "
        "of its energy, which does not grow with the length",
        {
            "more than half at every length": min(shares) > HALF,
            "within a tenth from 64 to 16384 tokens": max(shares[1:]) <= (1 + SLACK) * shares[1],
        },
        method="elu + 1, width 8, standard normal queries and keys; share = 1/(t |a|²)",
        observed=shares[-1],
        figures={"tokens": list(LONGER), "uniform_share": shares},
    )


CLAIMS = (
    Claim(
        id="ZER-14",
        table=Table.PAPER,
        statement="For bounded logits t max|w| stays bounded as the row grows.",
        standing=Standing.STATED,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=largest_weight_shrinks_like_one_over_t,
        quote=(
            "… we have max_i abs(w_{t,i}) = O(1/t) and hence Σ_i w_{t,i} v_i = O(B), independent "
            "of t."
        ),
        place="Lemma 3.4",
        hypotheses=("bounded logits",),
    ),
    Claim(
        id="ZER-15",
        table=Table.PAPER,
        statement=(
            "For bounded logits the outputs of ZeroS stay within a constant times the values at "
            "every length, as those of softmax do."
        ),
        standing=Standing.STATED,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=bounded_logits_bounded_outputs,
        quote=(
            "We now show that the reweighted zero-sum softmax achieves the same level of "
            "numerical stability as the original softmax."
        ),
        place="before Lemma 3.4",
        hypotheses=(
            'lemma: "under bounded logits"',
            ('after it: "With controllable logits generation methods independent of t, …"'),
        ),
        note="Without the hypothesis: ZER-39.",
    ),
    Claim(
        id="ZER-20",
        table=Table.OWN,
        statement=(
            "Softmax with bounded logits dilutes: weights stay within e^{±2S}/t, and the uniform "
            "part of a row keeps a fixed share of its energy."
        ),
        standing=Standing.OWN,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=bounded_softmax_dilutes,
        note="For standard normal logits the share tends to 1/e.",
    ),
    Claim(
        id="ZER-35",
        table=Table.OWN,
        statement=(
            "The uniform part of a row of linear attention over independent tokens has a large "
            "share of its energy, which does not grow with the length."
        ),
        standing=Standing.OWN,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=linear_share_is_constant,
        quote="… uniform signals increasingly dominate as sequence length grows.",
        place="Convexity of Sum-to-One Weights, said of linear attention",
        note="Independent normal tokens and elu + 1, not a trained model.",
    ),
    Claim(
        id="ZER-39",
        table=Table.OWN,
        statement="Without a bound on the logits the outputs of ZeroS can grow with them.",
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=output_grows_with_the_logits,
        note=(
            "With unequal gates in proportion (0.10, 0.72, 6.3, 64 at scales 1 to 1000), while a "
            "softmax output never exceeds its values. The weights of InLine attention grow in "
            "the same way (INL-16)."
        ),
    ),
)
