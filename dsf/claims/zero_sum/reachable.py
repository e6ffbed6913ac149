"""Which outputs softmax, centred softmax and zero-sum weights can reach.

A head whose weights are an affine function of probabilities reaches the convex hull of what the
one-hot probabilities give: those are the points below.
"""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from scipy.optimize import least_squares
from scipy.special import softmax

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing
from dsf.claims.deciding import argued, held, refuted
from dsf.claims.zero_sum.hulls import farthest, separation
from dsf.claims.zero_sum.weighing import last_row

Combination = Callable[[np.ndarray], np.ndarray]
"""Weights as an affine function of probabilities; rows are cases."""

NEAR, FAR = (0.01, 0.03, 0.1, 0.3), (1.0, 3.0, 10.0)
CLOSE = 1e-8


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


def centred_softmax_is_all_of_it(combination: Combination = centred) -> Certificate:
    """Two tokens with independent values: how much of v_1 - v_2 comes out at most."""
    values = np.eye(2)
    reached = farthest(combination(np.eye(2)) @ values, values[0] - values[1])
    return refuted(
        "w = α - 1/t, α probabilities, gives all combinations Σ w_i v_i with Σ w_i = 0",
        1 - reached,
        beyond=1e-9,
        witness={
            "values": values.tolist(),
            "target": "v_1 - v_2",
            "largest_multiple_reached": reached,
        },
        method="linear program: both weights lie in [-1/2, 1/2]",
    )


def softmax_reaches_the_affine_hull(weights: tuple[float, float] = (2.0, -1.0)) -> Certificate:
    """The affine combination 2 v_1 - v_2 of independent values, and what separates it."""
    values = np.eye(2)
    found = separation(values, np.array(weights) @ values)
    return refuted(
        "a softmax head reaches the whole affine hull of its values",
        found.margin,
        beyond=1e-9,
        witness={
            "values": values.tolist(),
            "target": (np.array(weights) @ values).tolist(),
            "direction": found.direction,
            "target_along_it": found.target,
            "largest_value_along_it": found.largest,
        },
        method="linear program for a separating direction",
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
        statement=(
            "Centred convex combinations lie strictly inside the zero-sum combinations, unless all "
            "values are equal."
        ),
        standing=Standing.STATED,
        expected=Verdict.PROVED,
        check=hull_is_strictly_inside,
    ),
    Claim(
        id="ZER-7",
        statement="The weights α - 1/t of a softmax row α yield all zero-sum combinations.",
        standing=Standing.STATED,
        expected=Verdict.REFUTED,
        check=centred_softmax_is_all_of_it,
        note=(
            "They yield a translate of the convex hull: with two tokens at most half of v₁ - v₂. "
            "What ZeroS gains comes from unbounded deviations and unequal gates."
        ),
    ),
    Claim(
        id="ZER-8",
        statement="A full softmax head reaches the whole affine hull of its values.",
        standing=Standing.STATED,
        expected=Verdict.REFUTED,
        check=softmax_reaches_the_affine_hull,
        note=(
            "It reaches the convex hull: 2 v₁ - v₂ lies beyond v₁. With a gated zero order the "
            "weights sum to that gate, which stays below 1 in size."
        ),
    ),
    Claim(
        id="ZER-9",
        statement=(
            "Zero-sum weights reach the whole span of v_i - v_avg, provided that the gates of the "
            "first and the higher orders differ."
        ),
        standing=Standing.STATED,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=zero_sums_reach_the_span,
        note="With equal gates they are centred softmax weights, and bounded.",
    ),
)
