"""Which outputs softmax, centred softmax and zero-sum weights can reach.

A head whose weights are an affine function of probabilities reaches the convex hull of what the
one-hot probabilities give: those are the points below.
"""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import sympy
import torch
from scipy.optimize import brentq, least_squares
from scipy.special import softmax

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, held, refuted, shown
from dsf.claims.zero_sum.hulls import farthest, separation
from dsf.claims.zero_sum.weighing import last_row

Combination = Callable[[np.ndarray], np.ndarray]
"""Weights as an affine function of probabilities; rows are cases."""

NEAR, FAR = (0.01, 0.03, 0.1, 0.3), (1.0, 3.0, 10.0)
CLOSE = 1e-8
ROUNDING = 1e-12


def centred(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities without their mean."""
    return probabilities - 1 / probabilities.shape[-1]


def hull_is_strictly_inside(combination: Combination = centred) -> Certificate:
    """Zero-sum targets at growing distance from zero, by linear programming; t 6, d 3."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((6, 3))
    weights = rng.standard_normal(6)
    target = (weights - weights.mean()) @ values
    target /= np.linalg.norm(target)
    points = combination(np.eye(6)) @ values
    margins = {scale: separation(points, scale * target).margin for scale in NEAR + FAR}
    exact = [[Fraction(part) for part in row] for row in combination(np.eye(4)).tolist()]
    radius = np.linalg.norm(points, axis=1).max()
    return argued(
        "{Σ α_i v_i - v_avg, α probabilities} lies strictly inside {Σ w_i v_i, Σ w_i = 0}, unless "
        "all v_i are equal",
        "the first set is a convex hull, so bounded; the second is a linear space, which is not "
        "bounded unless it is {0}, which is when all v_i are equal",
        {
            "the weights sum to zero (t = 4, exact)": not any(sum(row) for row in exact),
            "values differ": bool(np.ptp(values, axis=0).max() > 0),
            "scales up to 0.3 are reached": max(margins[scale] for scale in NEAR) <= CLOSE,
            "scales from 1 on are not": min(margins[scale] for scale in FAR) > CLOSE,
            "the largest scale is beyond the hull's radius": bool(max(FAR) > radius),
        },
        method="linear programs",
        observed=margins[10.0],
    )


def deviations_are_zero_sums(combination: Combination = centred) -> Certificate:
    """Weights of every vertex of the probabilities, in exact arithmetic."""
    exact = [
        [Fraction(part) for part in row]
        for tokens in (2, 4, 8)
        for row in combination(np.eye(tokens)).tolist()
    ]
    return argued(
        "w_i = α_i - 1/t, with α probabilities, has Σ w_i = 0, so its output is a zero-sum "
        "combination of the values",
        "w is affine in α, so its sum is zero for all probabilities as soon as it is at the "
        "vertices",
        {"the weights sum to zero at every vertex (t = 2, 4, 8, exact)": not any(map(sum, exact))},
        method="exact sums at the vertices",
    )


def subtraction_enlarges(combination: Combination = centred) -> Certificate:
    """The vertices of what w = α - 1/t reaches, and of the softmax outputs less their mean."""
    rng = np.random.default_rng(0)
    drawn, apart = rng.standard_normal((6, 3)), np.eye(2)
    distances = [
        float(
            np.abs(combination(np.eye(len(values))) @ values - (values - values.mean(axis=0))).max()
        )
        for values in (drawn, apart)
    ]
    return refuted(
        "the weights α - 1/t reach more than the softmax outputs less their mean",
        1.0 if max(distances) <= ROUNDING else 0.0,
        beyond=0.5,
        witness={
            "largest distance of the vertices of the two sets": max(distances),
            "identity": "Σ (α_i - 1/t) v_i = Σ α_i v_i - v_avg",
            "values": apart.tolist(),
            "largest multiple of v_1 - v_2 in both": farthest(
                combination(np.eye(2)) @ apart, apart[0] - apart[1]
            ),
        },
        method="vertices of both convex sets, six values in space and two in the plane",
    )


def softmax_reaches_the_affine_hull(
    weights: tuple[float, float] = (2.0, -1.0), *, zero_order: float = 0.95
) -> Certificate:
    """The affine combination 2 v_1 - v_2 of independent values: softmax, and the reweighted head.

    Args:
        zero_order: the largest σ⁰ of a reweighted head; tanh and sigmoid stay below 1.
    """
    values = np.eye(2)
    target = np.array(weights)
    found = separation(values, target @ values)
    short = abs(float(target.sum()) - zero_order)
    return refuted(
        "a head with softmax, or with reweighted softmax and its zero order, reaches the whole "
        "affine hull of its values",
        min(found.margin, short),
        beyond=1e-9,
        witness={
            "values": values.tolist(),
            "target": (target @ values).tolist(),
            "direction": found.direction,
            "target_along_it": found.target,
            "largest_value_along_it": found.largest,
            "sum of the weights of the target": float(target.sum()),
            "sum of the weights of a reweighted row, σ⁰": zero_order,
            "at σ⁰ = 1 and gates 0.9, 0.1 it is reached at the gap": _gap(weights[0]),
        },
        method="linear program for a separating direction; sums of weights",
    )


def _gap(weight: float) -> float:
    """The gap of two logits that gives the first token ``weight``, σ⁰ = 1, gates 0.9 and 0.1."""

    def missed(gap: float) -> float:
        return 1 / 2 + 0.8 * gap / 4 + 0.1 * (1 / (1 + np.exp(-gap)) - 1 / 2) - weight

    return float(brentq(missed, 0, 100))


def hull_and_span(share: Fraction | None = None) -> Certificate:
    """Split an affine combination with symbols into a point of the hull and one of the span.

    Args:
        share: the weight of every value in the point of the hull; 1/t when absent.
    """
    tokens = 5
    given = Fraction(1, tokens) if share is None else share
    part = sympy.Rational(given.numerator, given.denominator)
    free = sympy.symbols(f"c1:{tokens}")
    affine = [*free, 1 - sum(free)]
    hull, rest = [part] * tokens, [c - part for c in affine]
    return argued(
        "conv{v_i} + Span{v_i - v_avg} = Aff{v_i}",
        "an affine combination is the mean, which is in the hull, plus a zero-sum combination; and "
        "a sum of the two kinds has weights of sum 1",
        {
            "the first part is a point of the hull": bool(sum(hull) == 1 and part >= 0),
            "the weights of the second sum to zero": bool(sympy.expand(sum(rest)) == 0),
            "together they are the combination": all(
                sympy.expand(a + b - c) == 0 for a, b, c in zip(hull, rest, affine, strict=True)
            ),
        },
        method=f"symbols, {tokens} values",
    )


def nothing_is_lost(
    values: tuple[tuple[float, float], ...] = ((1.0, 0.0), (3.0, 0.0)),
) -> Certificate:
    """Whether the mean of two values lies in the span of their differences from it."""
    points = np.array(values)
    mean = points.mean(axis=0)
    span = points - mean
    ranks = [int(np.linalg.matrix_rank(part)) for part in (span, np.vstack([span, mean]))]
    return shown(
        "the mean of the values can lie in the span of the differences, where nothing is lost",
        1.0 if ranks[0] == ranks[1] else 0.0,
        beyond=0.5,
        case={"values": points.tolist(), "v_avg": mean.tolist(), "ranks": ranks},
        method="ranks of the differences without and with the mean",
    )


GATES = ((0.7, 0.3), (0.3, 0.7), (0.1, 0.9), (0.5, 0.5))


def zero_sums_reach_the_span(
    gates: tuple[tuple[float, float], ...] = GATES,
) -> Certificate:
    """Logits for 50 drawn zero-sum targets of 8 tokens; the last gates are equal and must fail."""
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((50, 8))
    targets -= targets.mean(axis=1, keepdims=True)
    solved = {
        f"{first}, {higher}": sum(_misses(target, first, higher) <= CLOSE for target in targets)
        for first, higher in gates
    }
    *unequal, equal = solved
    return held(
        "zero-sum weights reach every zero-sum combination exactly when the two orders have "
        "different factors",
        {
            **{f"all targets at {name}": solved[name] == len(targets) for name in unequal},
            f"none at {equal}": solved[equal] == 0,
        },
        method="least squares from three starts, checked by the library's weights",
        figures={"solved": solved, "targets": len(targets)},
    )


def _misses(target: np.ndarray, first: float, higher: float) -> float:
    """How far the best logits found are from giving ``target``."""
    tokens = len(target)

    def missed(logits: np.ndarray) -> np.ndarray:
        deviation = (logits - logits.mean()) / tokens
        return (first - higher) * deviation + higher * centred(softmax(logits)) - target

    def slopes(logits: np.ndarray) -> np.ndarray:
        share = softmax(logits)
        spread = np.diag(share) - np.outer(share, share)
        return (first - higher) * centred(np.eye(tokens)) / tokens + higher * spread

    far = tokens * target / (first - higher) if first != higher else tokens * target
    best = far
    for start in (far, np.zeros(tokens), far[::-1]):
        found = least_squares(missed, start, slopes, xtol=1e-15, gtol=1e-15, max_nfev=30).x
        best = min(best, found, key=lambda logits: float(np.abs(missed(logits)).max()))
        if np.abs(missed(best)).max() <= CLOSE:
            break
    weights = last_row(torch.from_numpy(best), first, higher).numpy()
    return float(np.abs(weights - target).max())


CLAIMS = (
    Claim(
        id="ZER-6",
        table=Table.PAPER,
        statement=(
            "Centred convex combinations lie strictly inside the zero-sum combinations, unless "
            "all values are equal."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=hull_is_strictly_inside,
        quote=(
            "… the zero-sum span of {v_i-v_avg} strictly contains the deviations achievable by "
            "convex weights, with strictness whenever the v_i are not all identical."
        ),
        place="Prop. 3.1",
        hypotheses=("the v_i are not all identical",),
    ),
    Claim(
        id="ZER-7",
        table=Table.PAPER,
        statement="The weights α - 1/t of a softmax row α yield zero-sum combinations.",
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=deviations_are_zero_sums,
        quote=(
            "… zero-order subtraction w_i = α_i - 1/t yields head deviations in {Σ_i w_i v_i : "
            "Σ_i w_i = 0}."
        ),
        place="Cor. 3.2",
        hypotheses=("α a row of softmax",),
        note="True as membership. Whether the subtraction enlarges anything is ZER-27.",
    ),
    Claim(
        id="ZER-8",
        table=Table.PAPER,
        statement=(
            "A head with full softmax, or with full reweighted softmax and the zero order kept, "
            "reaches the whole affine hull of its values."
        ),
        standing=Standing.STATED,
        expected=Verdict.REFUTED,
        check=softmax_reaches_the_affine_hull,
        quote=(
            "A single head with full softmax (or full reweighted softmax with the zero-order "
            "term kept) can produce any point in the affine hull Aff{v_1, …, v_t} …"
        ),
        place="Prop. 3.3, first clause",
        hypotheses=(
            "no condition on the gates",
            "σ⁰ is tanh or sigmoid, so below 1",
        ),
        stands=(
            "The parenthesis is true if σ⁰ is exactly 1 and σ¹ ≠ σʰ; softmax reaches the convex "
            "hull. The other clauses of the proposition stand (ZER-9, ZER-28)."
        ),
        note=(
            "2 v₁ - v₂ lies beyond v₁, and its weights sum to 1, while those of a reweighted row "
            "sum to σ⁰. At σ⁰ = 1 and gates 0.9, 0.1 a gap of 7.25 between two logits gives it."
        ),
    ),
    Claim(
        id="ZER-9",
        table=Table.PAPER,
        statement=(
            "Zero-sum weights reach the whole span of v_i - v_avg, if the gates of the first and "
            "the higher orders differ."
        ),
        standing=Standing.STATED,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=zero_sums_reach_the_span,
        quote=(
            "A single head without the zero-order term (i.e. zero-sum weights) can produce any "
            "point in the linear span Span{Δ_1, …, Δ_t} …"
        ),
        place="Prop. 3.3, second clause",
        hypotheses=("σ¹ ≠ σʰ: added here, the clause prints no condition",),
        note="With equal gates they are centred softmax weights, and bounded.",
    ),
    Claim(
        id="ZER-27",
        table=Table.PAPER,
        statement=(
            "Subtracting the zero order, w = α - 1/t, enlarges the set of deviation vectors that "
            "a head can produce."
        ),
        standing=Standing.STATED,
        expected=Verdict.REFUTED,
        check=subtraction_enlarges,
        quote=(
            "Since {Σα_i v_i-v_avg} ⊊ {Σw_i v_i : Σw_i = 0}, zero-sum attention enlarges the set "
            "of deviation vectors the head can produce (and hence its expressivity), only "
            "without the uniform average direction."
        ),
        place="Cor. 3.2",
        hypotheses=(
            ("w_i = α_i - 1/t with α probabilities, as in the first half of the corollary"),
        ),
        stands=(
            "The zero-sum span is larger (ZER-6), and a head reaches it if the gates of the "
            "first and the higher orders differ (ZER-9). The subtraction alone changes nothing."
        ),
        note=(
            "Σ (α_i - 1/t) v_i = Σ α_i v_i - v_avg, so the two sets are equal: with two tokens "
            "both reach at most half of v₁ - v₂. What ZeroS gains comes from unbounded "
            "deviations and unequal gates."
        ),
    ),
    Claim(
        id="ZER-28",
        table=Table.PAPER,
        statement=(
            "The convex hull of the values plus the span of their deviations is their affine hull."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=hull_and_span,
        quote=(
            "Therefore, …, the Minkowski sum of their reachable sets is exactly Aff{v_i} + "
            "Span{Δ_i} = Aff{v_i}."
        ),
        place="Prop. 3.3, third clause",
        hypotheses=("an identity of sets",),
        note=(
            "The first head alone reaches only the convex hull (ZER-8); the identity holds "
            "nevertheless."
        ),
    ),
    Claim(
        id="ZER-29",
        table=Table.OWN,
        statement=(
            "Where v_avg lies in the span of the differences, removing the zero order loses "
            "nothing."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=nothing_is_lost,
        quote=(
            "Zero-sum weights can express more complex interactions after removing the "
            "zero-order term, with expressivity reduction only in the orthogonal direction of "
            "v_avg."
        ),
        place="after Cor. 3.2",
        note=(
            "Values (1, 0) and (3, 0). The quoted reduction in one direction is the case where "
            "v_avg lies outside."
        ),
    ),
)
