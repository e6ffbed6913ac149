"""Checks of ZeroS (arXiv:2602.05230) and of its released code, SequenceLab."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import sympy
import torch
from scipy import special
from scipy.optimize import brentq, least_squares, linprog
from torch import Tensor
from torch.nn.functional import normalize

import dsf
from dsf import attention_map, measures, mixers
from dsf.certificates import Verdict
from papers.drawn import apart, generator, normal, output, uniform, weights
from papers.verdicts import argued, check, held, identical, measured, refuted, shown
from papers.zero_sum.weighing import (
    all_states,
    causal_map,
    defined_row,
    drawn_mixer,
    from_probabilities,
    interleaved_and_halved,
    largest_of_all,
    last_row,
    last_states,
    mean_by_own_place,
    radial,
    read_factors,
    rotated,
    stabilised_outputs,
)

ROUNDING = 1e-12

# ---- What zero-sum weights add up to, with symbols for any number of tokens
#
# A weight is affine in the exponential e and the logit s of its token. The sum over a row is
# therefore the same expression with e, s and 1 replaced by their sums E, P and t.

e, s, E, P, t = sympy.symbols("e s E P t", positive=True)
first, higher, zero = sympy.symbols("first higher zero", real=True)
DEVIATION = s - P / t
RADIAL = first * DEVIATION / t + higher * (e / E - 1 / t - DEVIATION / t)


def row_sum(weight: sympy.Expr) -> sympy.Expr:
    """The sum over the t tokens of a row.

    Raises:
        ValueError: if the weight is not affine in e and s.
    """
    affine = sympy.Poly(sympy.expand(weight), e, s)
    if affine.total_degree() > 1:
        raise ValueError(f"row_sum: expected 'weight' affine in e and s, got {weight}.")
    return sympy.simplify(
        affine.coeff_monomial(e) * E + affine.coeff_monomial(s) * P + affine.coeff_monomial(1) * t
    )


@check("ZER-1")
def radial_weights_sum_to_zero(weight=RADIAL):
    """Sum the row with symbols, and the rows of a drawn map exactly."""
    rng = torch.Generator().manual_seed(0)
    logits, *orders = torch.randn(3, 64, generator=rng, dtype=torch.float64)
    map = weights(radial(logits, orders[0].sigmoid(), orders[1].sigmoid()))
    stored = dsf.certify.zero_sums(map, tolerance=1e-14)
    return argued(
        {
            "the symbolic sum is zero": row_sum(weight) == 0,
            "every row of a stored map sums to zero within 1e-14": stored.verdict is Verdict.PROVED,
        },
        observed=stored.observed,
    )


SCAN = (
    higher / E,
    (first - higher) / t,
    (P / t**2 - 1 / t) * higher - P / t**2 * first + zero / t,
)
"""Factors of e, of s and of one."""


@check("ZER-4")
def scan_coefficients_are_right(coefficients=SCAN):
    """Expand the definition and compare."""
    a, b, c = coefficients
    return identical(sympy.expand(RADIAL + zero / t - (a * e + b * s + c)))


@check("ZER-18")
def first_row_is_zero(weight=RADIAL):
    """One token: its exponential and its logit are the sums."""
    mixer = mixers.ZeroSumAttention.draw(torch.Generator().manual_seed(0), steps=6)
    system = replace(mixer, zero_order=None).system()
    stored = float(attention_map(system, rows=0).abs().max())
    return argued(
        {
            "the symbolic weight is zero": sympy.expand(weight.subs({E: e, P: s, t: 1})) == 0,
            "the library's first row is zero within 1e-15": stored <= 1e-15,
        },
        observed=stored,
    )


@check("ZER-32")
def gates_differ(other=torch.sigmoid):
    """Both gates at the same numbers."""
    x = torch.linspace(-4, 4, 9, dtype=torch.float64)
    case = {"x": x.tolist(), "tanh": x.tanh().tolist(), "the other": other(x).tolist()}
    return shown(apart(x.tanh(), other(x)), beyond=1e-9, case=case)


@check("ZER-17")
def angle_keeps_the_zero_sum(angle=True):
    """Row sums against the absolute weight of the rows, and the response to constant values."""
    rng = generator()
    query, key = normal(rng, 2, 24, 8)
    logit, (first, higher) = normal(rng, 24), normal(rng, 2, 24).sigmoid()
    mixer = replace(radial(logit, first, higher), value=torch.ones(24, 1, dtype=torch.float64))
    if angle:
        mixer = replace(mixer, query=query, key=key)
    sums = measures.row_sums(mixer.system())
    relative = float(sums.abs().mean() / weights(mixer).abs().sum(dim=-1).mean())
    worst = int(sums.abs().argmax())
    return refuted(
        relative,
        beyond=1e-6,
        witness={
            "row": worst,
            "row_sum": float(sums[worst]),
            "response_to_constant_ones": float(output(mixer)[worst, 0, 0]),
            "mean_row_sum_over_mean_weight": relative,
        },
    )


@check("ZER-36")
def mask_is_multiplied(join=torch.mul):
    """Rows of a softmax map that are not defined."""
    logits = normal(0, 5, 5)
    past = torch.ones_like(logits) if join is torch.mul else torch.zeros_like(logits)
    mask = past.masked_fill(torch.ones_like(logits).triu(1).bool(), -torch.inf)
    undefined = join(mask, logits).softmax(dim=-1).isnan().any(dim=-1)
    case = {
        "undefined rows, from 1": [int(row) + 1 for row in undefined.nonzero()],
        "logits of row 1": logits[0].tolist(),
    }
    return shown(float(undefined.sum()), beyond=0.5, case=case)


@check("ZER-3")
def scan_equals_weights(weigh=defined_row):
    """The parallel scan of the library against the weights times the values."""
    mixer = drawn_mixer(steps=24, width=8, heads=2)
    expected = causal_map(mixer, weigh) @ mixer.value
    scanned = dsf.respond(mixer.system(), mixer.signal(), method="scan").squeeze(-2)
    error = float((scanned - expected).norm() / expected.norm())
    met = {"the scan gives what the explicit weights give": error <= 1e-10}
    return argued(met, observed=error)


@check("ZER-2")
def residuals_shrink_by_their_order(weigh=last_row):
    """Log-log slopes of the largest residual at the small end of the scales."""
    logits = normal(0, 64)
    logits = logits - logits.mean()
    second, third, scales = [], [], (0.2, 0.1, 0.05, 0.025, 0.0125)
    for scale in scales:
        deviation = scale * logits
        rest = weigh(deviation, 0.0, 1.0)
        quadratic = (deviation.square() - deviation.square().mean()) / (2 * len(logits))
        second.append(float(rest.abs().max()))
        third.append(float((rest - quadratic).abs().max()))
    slopes = [float(np.log2(sizes[-2] / sizes[-1])) for sizes in (second, third)]
    return held(
        {
            "slope 2 within 0.05": abs(slopes[0] - 2) <= 0.05,
            "slope 3 within 0.05": abs(slopes[1] - 3) <= 0.05,
        },
        figures={"slopes": slopes, "scales": list(scales), "second": second, "third": third},
    )


# ---- Which outputs softmax, centred softmax and zero-sum weights can reach
#
# A head whose weights are an affine function of probabilities reaches the convex hull of what the
# one-hot probabilities give: those are the points below.

Combination = Callable[[np.ndarray], np.ndarray]
"""Weights as an affine function of probabilities; rows are cases."""


@dataclass(frozen=True)
class Separation:
    """A direction along which a target may lie beyond every point of a hull."""

    direction: list[float]
    target: float
    largest: float

    @property
    def margin(self) -> float:
        """Above 0 exactly when the target is outside, up to rounding."""
        return self.target - self.largest


def separation(points: np.ndarray, target: np.ndarray) -> Separation:
    """The direction in which the target is furthest ahead of the hull of ``points``."""
    ahead = np.hstack([points, -np.ones((len(points), 1))])
    bounds = [(-1, 1)] * points.shape[1] + [(None, None)]
    found = linprog(np.append(-target, 1.0), A_ub=ahead, b_ub=np.zeros(len(points)), bounds=bounds)
    direction = found.x[:-1]
    along = float(target @ direction), float((points @ direction).max())
    return Separation([float(part) for part in direction], *along)


def farthest(points: np.ndarray, direction: np.ndarray) -> float:
    """The largest multiple of ``direction`` in the hull; ``nan`` if none is."""
    equations = np.vstack([np.hstack([points.T, -direction[:, None]]), np.ones(len(points) + 1)])
    equations[-1, -1] = 0.0
    found = linprog(
        np.append(np.zeros(len(points)), -1.0),
        A_eq=equations,
        b_eq=np.append(np.zeros(len(direction)), 1.0),
        bounds=[(0, None)] * len(points) + [(None, None)],
    )
    return float(-found.fun) if found.success else float("nan")


def centred(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities without their mean."""
    return probabilities - 1 / probabilities.shape[-1]


def _exact(rows: np.ndarray) -> list[list[Fraction]]:
    return [[Fraction(part) for part in row] for row in rows.tolist()]


@check("ZER-6")
def hull_is_strictly_inside(combination=centred):
    """Zero-sum targets at growing distance from zero, by linear programming; t 6, d 3."""
    rng = generator()
    values, drawn = rng.standard_normal((6, 3)), rng.standard_normal(6)
    target = (drawn - drawn.mean()) @ values
    target /= np.linalg.norm(target)
    points, scales = combination(np.eye(6)) @ values, (0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
    outside = [separation(points, scale * target).margin > 1e-8 for scale in scales]
    sums = map(sum, _exact(combination(np.eye(4))))
    return argued(
        {
            "the weights sum to zero (t = 4, exact)": not any(sums),
            "values differ": bool(np.ptp(values, axis=0).max() > 0),
            "scales up to 0.3 are reached, others not": outside == [False] * 3 + [True] * 3,
            "the hull is bounded by 10": bool(np.linalg.norm(points, axis=1).max() < 10),
        }
    )


@check("ZER-7")
def deviations_are_zero_sums(combination=centred):
    """Weights of every vertex of the probabilities, in exact arithmetic."""
    vertices = [row for tokens in (2, 4, 8) for row in _exact(combination(np.eye(tokens)))]
    met = not any(map(sum, vertices))
    return argued({"the weights sum to zero at every vertex (t = 2, 4, 8, exact)": met})


@check("ZER-27")
def zero_sums_enlarge(first=0.9, higher=0.1):
    """Multiples of v_1 - v_2 with two tokens: by centred softmax, and by zero-sum weights."""
    values, wanted = np.eye(2), (1.0, 10.0, 100.0)
    centred_softmax = farthest(centred(np.eye(2)) @ values, values[0] - values[1])
    reached = [weight(1e4, first, higher) >= multiple for multiple in wanted]
    return argued(
        {
            "centred softmax stays within a half": centred_softmax <= 0.5 + ROUNDING,
            "zero-sum weights pass 1, 10 and 100 times v_1 - v_2": all(reached),
        },
        observed=weight(1e4, first, higher),
        figures={"largest multiple by centred softmax": centred_softmax},
    )


@check("ZER-8")
def softmax_reaches_the_affine_hull(affine=(2.0, -1.0), *, zero_order=0.95):
    """The affine combination 2 v_1 - v_2 of independent values: softmax, and the reweighted head.

    Args:
        zero_order: the largest σ⁰ of a reweighted head; tanh and sigmoid stay below 1.
    """
    values, target = np.eye(2), np.array(affine)
    found = separation(values, target @ values)

    def missed(gap: float) -> float:
        """σ⁰ = 1, gates 0.9 and 0.1."""
        return 1 / 2 + 0.8 * gap / 4 + 0.1 * (1 / (1 + np.exp(-gap)) - 1 / 2) - affine[0]

    return refuted(
        min(found.margin, abs(float(target.sum()) - zero_order)),
        beyond=1e-9,
        witness={
            "values": values.tolist(),
            "target": (target @ values).tolist(),
            "a direction, the target and the hull along it": [
                found.direction,
                found.target,
                found.largest,
            ],
            "sum of the weights of the target": float(target.sum()),
            "sum of the weights of a reweighted row, σ⁰": zero_order,
            "at σ⁰ = 1 and gates 0.9, 0.1 it is reached at the gap": float(brentq(missed, 0, 100)),
        },
    )


@check("ZER-28")
def hull_and_span(share=Fraction(1, 5)):
    """Add and split combinations of five values with symbols.

    Args:
        share: the weight of every value in the point of the hull.
    """
    part = sympy.Rational(share.numerator, share.denominator)
    free, zero_sum = sympy.symbols("c1:5"), sympy.symbols("d1:5")
    affine = [*free, 1 - sum(free)]
    both = [a + b for a, b in zip(affine, [*zero_sum, -sum(zero_sum)], strict=True)]
    hull, rest = [part] * 5, [c - part for c in affine]
    return argued(
        {
            "an affine and a zero-sum combination make an affine one": (
                sympy.expand(sum(both)) == 1
            ),
            "a point of the hull is in front": bool(sum(hull) == 1 and part >= 0),
            "what an affine combination has besides is zero-sum": sympy.expand(sum(rest)) == 0,
        }
    )


GATES = ((0.7, 0.3), (0.3, 0.7), (0.1, 0.9), (0.5, 0.5))


@check("ZER-9")
def zero_sums_reach_the_span(gates=GATES):
    """Logits for 10 drawn zero-sum targets of 8 tokens; the last gates are equal and must fail."""
    targets = generator().standard_normal((10, 8))
    targets -= targets.mean(axis=1, keepdims=True)
    solved = {
        f"{first}, {higher}": sum(_misses(target, first, higher) <= 1e-8 for target in targets)
        for first, higher in gates
    }
    *unequal, equal = solved
    return argued(
        {
            **{f"all targets at {name}": solved[name] == len(targets) for name in unequal},
            f"none at {equal}": solved[equal] == 0,
        },
        figures={"solved": solved, "targets": len(targets)},
    )


def _misses(target: np.ndarray, first: float, higher: float) -> float:
    """How far the best logits found are from giving ``target``, by the library's weights."""
    tokens = len(target)

    def missed(logits: np.ndarray) -> np.ndarray:
        deviation = (logits - logits.mean()) / tokens
        return (first - higher) * deviation + higher * centred(special.softmax(logits)) - target

    def slopes(logits: np.ndarray) -> np.ndarray:
        share = special.softmax(logits)
        spread = np.diag(share) - np.outer(share, share)
        return (first - higher) * centred(np.eye(tokens)) / tokens + higher * spread

    far = tokens * target / (first - higher) if first != higher else tokens * target
    best = far
    for start in (far, np.zeros(tokens), far[::-1]):
        found = least_squares(missed, start, slopes, xtol=1e-15, gtol=1e-15, max_nfev=30).x
        best = min(best, found, key=lambda logits: float(np.abs(missed(logits)).max()))
        if np.abs(missed(best)).max() <= 1e-8:
            break
    row = last_row(torch.from_numpy(best), first, higher).numpy()
    return float(np.abs(row - target).max())


def weight(gap: float, first: float, higher: float) -> float:
    """The library's weight of the one of two tokens whose logit is ``gap`` above the other's."""
    return float(last_row(torch.tensor([gap, 0.0], dtype=torch.float64), first, higher)[0])


@check("ZER-10")
def two_logits_one_weight(first=0.3, higher=0.7):
    """Look for a second gap without weight besides 0."""
    low, high = 0.1, 20.0
    crosses = weight(low, first, higher) * weight(high, first, higher) < 0
    gap = float(brentq(weight, low, high, args=(first, higher), xtol=1e-13)) if crosses else 0.0
    found = weight(gap, first, higher)
    case = {"gates": [first, higher], "gaps": [0.0, gap], "weights": [0.0, found]}
    return shown(gap if abs(found) <= ROUNDING else 0.0, beyond=low, case=case)


@check("ZER-19")
def difference_is_in_reach(first=0.9, higher=0.1):
    """v_1 - v_2 against the segment of softmax, and between two gaps of ZeroS."""
    outside = separation(np.eye(2), np.array([1.0, -1.0]))
    a, b = (sympy.Rational(part).limit_denominator(100) for part in (first, higher))
    gap = sympy.Symbol("g", real=True)
    exact = (a - b) * gap / 4 + b * (1 / (1 + sympy.exp(-gap)) - sympy.Rational(1, 2))
    below, above = (bool(exact.subs(gap, at) < 1) for at in (4, 5))
    crosses = below and not above
    root = float(brentq(lambda at: weight(at, first, higher) - 1, 4, 5)) if crosses else None
    return argued(
        {
            "a direction separates v_1 - v_2 from the segment": outside.margin > ROUNDING,
            "the weight is below 1 at gap 4": below,
            "the weight is at least 1 at gap 5": not above,
            "the library agrees": (
                abs(weight(4.5, first, higher) - float(exact.subs(gap, 4.5))) <= ROUNDING
            ),
        },
        observed=root,
    )


def all_weights_at_the_largest(row: list[Fraction], value: Fraction) -> Fraction:
    """(B t max|w|)², with B² = ``value``."""
    return value * (len(row) * max(map(abs, row))) ** 2


@check("ZER-11")
def outputs_are_bounded(size=all_weights_at_the_largest):
    """The inequality on drawn weights and the values that add up as far as they can, exactly.

    Args:
        size: a bound on |Σ w_i v_i|², from the weights and the largest |v_i|².
    """
    rng = generator()
    kept = []
    for tokens in (2, 5, 9) * 10:
        row = [Fraction(w) for w in last_row(3 * normal(rng, tokens), 0.7, 0.4).tolist()]
        drawn = [Fraction(v) for v in rng.standard_normal(tokens).tolist()]
        signs = [Fraction(1 if w > 0 else -1) for w in row]
        for values in (drawn, signs):
            energy = sum(map(Fraction.__mul__, row, values)) ** 2
            kept.append(energy <= size(row, max(v * v for v in values)))
    return argued({"30 drawn rows, random values and the signs of the weights, exactly": all(kept)})


Bound = Callable[[Any, Any, Any, Any], Any]


def derived_bound(reach: Any, grown: Any, first: Any, higher: Any) -> Any:
    """[2S first + higher (e^{2S} - 1 + 2S)] for logits within S, with ``grown`` = e^{2S}."""
    return 2 * reach * first + higher * (grown - 1 + 2 * reach)


@check("ZER-13")
def weights_are_bounded(bound=derived_bound):
    """Three inequalities whose differences have no negative coefficient, and 10 000 draws."""
    S, first, higher, y, m = sympy.symbols("S first higher y m", nonnegative=True)
    t, x = m + 1, y + 1  # at least one token, e^{2S} at least 1
    largest, smallest = x / (x + t - 1), 1 / (1 + (t - 1) * x)

    def grows(difference: sympy.Expr) -> bool:
        """Whether a rational function has no negative coefficient, above and below the line."""
        above_and_below = sympy.fraction(sympy.factor(difference))
        return all(
            bool(coefficient >= 0)
            for part in above_and_below
            for coefficient in sympy.expand(part).as_coefficients_dict().values()
        )

    rng, exceeding = generator(), 0
    for reach in (0.5, 1.0, 2.0, 4.0, 8.0):
        logits = reach * rng.uniform(-1, 1, (2000, 16))
        logits[:1000] = reach * np.sign(logits[:1000])
        a, b = rng.uniform(0, 1, (2, 2000, 1))
        deviation = (logits - logits.mean(axis=1, keepdims=True)) / 16
        drawn = a * deviation + b * (special.softmax(logits, axis=1) - 1 / 16 - deviation)
        allowed = bound(reach, np.exp(2 * reach), a, b) / 16
        exceeding += int((np.abs(drawn) > allowed).any(axis=1).sum())
    parts = 2 * S * first + higher * (x - 1 + 2 * S)
    return argued(
        {
            "t times the largest softmax weight exceeds 1 by at most e^{2S} - 1": grows(
                (x - 1) - (t * largest - 1)
            ),
            "1 exceeds t times the smallest by at most e^{2S} - 1": grows(
                (x - 1) - (1 - t * smallest)
            ),
            "the bound is at least the sum of the three parts": grows(
                bound(S, x, first, higher) - parts
            ),
            "no draw exceeds it": exceeding == 0,
        }
    )


@check("ZER-16")
def output_is_lipschitz(row=lambda logits: defined_row(logits, 0.7, 0.4), factor=64**-0.5):
    """Finite differences against the largest derivative of a weight on the way between two inputs.

    Args:
        row: weights from 64 logits, which are linear in the input.
        factor: what the sum over 64 tokens is multiplied by.
    """
    rng = generator()
    project, worst = normal(rng, 64, 5), 0.0
    slopes = torch.func.vmap(torch.func.jacrev(lambda point: row(project @ point)))
    for _ in range(20):
        x, step = normal(rng, 2, 5)
        moved = x + 0.1 * step
        path = x + torch.linspace(0, 1, 17, dtype=x.dtype).unsqueeze(-1) * (moved - x)
        lipschitz = 64 * float(slopes(path).norm(dim=-1).max())
        change = row(project @ moved) - row(project @ x)
        largest_output = factor * float(change.abs().sum())  # by unit values with its signs
        allowed = 1.01 * lipschitz / 64**0.5 * float((moved - x).norm())
        worst = max(worst, largest_output / allowed if allowed else np.inf)
    return argued(
        {"20 pairs of inputs with the worst values stay within it": worst <= 1}, observed=worst
    )


LENGTHS = (16, 64, 256, 1024, 4096)


@check("ZER-14")
def largest_weight_shrinks_like_one_over_t(weigh=last_row):
    """t max|w| for logits uniform in -2 ... 2: against the proven bound, and the limit."""
    rng = generator()
    found = [
        tokens * float(weigh(uniform(rng, tokens, low=-2, high=2), 0.5, 0.5).abs().max())
        for tokens in LENGTHS
    ]
    bound = float(derived_bound(2.0, np.exp(4.0), 0.5, 0.5))
    limit = float(0.5 * (np.exp(2.0) * 2 / np.sinh(2.0) - 1))
    return argued(
        {
            "within the proven bound": max(found) <= bound,
            "at most a tenth above the limit of long rows": max(found) <= 1.1 * limit,
        },
        observed=max(found),
        figures={"tokens": list(LENGTHS), "t_max_w": found, "bound": bound, "limit": limit},
    )


@check("ZER-15")
def bounded_logits_bounded_outputs(logits_of=torch.Tensor.clone):
    """Outputs of unit values at growing length, logits in -2 ... 2.

    Args:
        logits_of: from drawn logits in -2 ... 2 to those that are weighed.
    """
    rng = generator()
    found = []
    for tokens in LENGTHS:
        row = last_row(logits_of(uniform(rng, tokens, low=-2, high=2)), 0.8, 0.3)
        found.append(float(row.abs().sum()))  # by values that add up as far as they can
    bound = float(derived_bound(2.0, np.exp(4.0), 0.8, 0.3))
    return argued(
        {
            "within the proven constant": max(found) <= bound,
            "not growing with the length": max(found) <= 1.1 * found[-1] or max(found) == found[0],
        },
        observed=max(found),
        figures={"tokens": list(LENGTHS), "largest output": found, "proven constant": bound},
    )


SCALES = (1.0, 10.0, 100.0, 1000.0)


def output_norms(
    weigh: Callable[[Tensor], Tensor], scales: Sequence[float] = SCALES
) -> list[float]:
    """Norm of the output of one row of 64 unit values, at ``scales`` times fixed logits."""
    rng = generator()
    values, logits = normalize(normal(rng, 64, 8), dim=-1), normal(rng, 64)
    return [float((weigh(scale * logits) @ values).norm()) for scale in scales]


@check("ZER-39")
def output_grows_with_the_logits(first=0.8, higher=0.3):
    """A softmax output is a mean of unit vectors and never longer than one."""
    norms = output_norms(lambda logits: last_row(logits, first, higher))
    case = {"gates": [first, higher], "logit_scales": list(SCALES), "output_norms": norms}
    return shown(norms[-1] - 1, beyond=1.0, case=case)


SIGNS = (-1, 1)


@check("ZER-33")
def centred_values_average_out(values=SIGNS):
    """The mean output over all draws of three values, in fractions."""
    rows = {
        "zero-sum": (Fraction(1, 2), Fraction(-3, 4), Fraction(1, 4)),
        "softmax": (Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)),
    }
    means = {
        name: sum(
            sum(w * v for w, v in zip(row, drawn, strict=True))
            for drawn in product(values, repeat=3)
        )
        / Fraction(len(values) ** 3)
        for name, row in rows.items()
    }
    return argued(
        {f"{name} weights: the mean over all draws is 0": m == 0 for name, m in means.items()},
        figures={name: str(mean) for name, mean in means.items()},
    )


@check("ZER-34")
def uniform_rows_shrink(weight=None):
    """The mean square of a uniform average over all draws of up to eight signs.

    Args:
        weight: of every token; 1/t when absent.
    """
    squares = {
        t: sum(
            (sum(drawn) * (Fraction(1, t) if weight is None else weight)) ** 2
            for drawn in product(SIGNS, repeat=t)
        )
        / Fraction(2**t)
        for t in range(1, 9)
    }
    return argued(
        {f"E o² = 1/{t} at {t} tokens": square == Fraction(1, t) for t, square in squares.items()}
    )


@check("ZER-21")
def paths_differ(weigh=from_probabilities):
    """The map of the explicit path against that of the scan, in Frobenius norm."""
    rng = generator()
    mixer = radial(normal(rng, 24), *normal(rng, 2, 24).sigmoid())
    scanned, explicit = weights(mixer), causal_map(mixer, weigh)
    missed = float((explicit - scanned).norm() / scanned.norm())
    rows = {"row 2 by scan": scanned[1, :2].tolist(), "row 2 explicit": explicit[1, :2].tolist()}
    return shown(missed, beyond=1e-6, case=rows)


@check("ZER-23")
def scan_sees_later_tokens(stabiliser=largest_of_all):
    """Raise the last logit and watch the outputs before it."""
    rng = generator()
    logits, values = normal(rng, 24).float(), normal(rng, 24, 8).float()
    before = stabilised_outputs(logits, values, stabiliser)
    changes: dict[float, float] = {}
    for raised in (20.0, 40.0):
        moved = logits.clone()
        moved[-1] += raised
        changes[raised] = apart(stabilised_outputs(moved, values, stabiliser)[:-1], before[:-1])
    case = {"last_logit_raised": list(changes), "earlier_change": list(changes.values())}
    return shown(max(changes.values()), beyond=1e-3, case=case)


@check("ZER-30")
def memory_grows_with_the_length(states=all_states):
    """Count the numbers in memory for 16 and for 64 tokens."""
    rng = torch.Generator().manual_seed(0)
    numbers = []
    for tokens in (16, 64):
        raised, logits = torch.rand(2, tokens, generator=rng)
        key, value = torch.randn(2, tokens, 8, generator=rng)
        numbers.append(sum(part.numel() for part in states(raised, logits, key, value)))
    case = {"numbers at 16 and at 64 tokens": numbers}
    return shown(numbers[1] / numbers[0] - 1, beyond=1e-6, case=case)


@check("ZER-25")
def algorithm_keeps_three_sums(states=last_states):
    """What is kept after 16 and after 64 tokens, and that the last output can be read from it."""
    rng = torch.Generator().manual_seed(0)
    numbers, missed = [], []
    for tokens in (16, 64):
        query, key, value = torch.randn(3, 1, tokens, 8, generator=rng, dtype=torch.float64)
        logit, *orders = torch.randn(3, 1, tokens, generator=rng, dtype=torch.float64)
        mixer = replace(
            radial(logit, orders[0].sigmoid(), orders[1].sigmoid()),
            query=query,
            key=key,
            value=value,
        )
        kept = states(logit[0].exp(), logit[0], normalize(key, dim=-1)[0], value[0])
        numbers.append(sum(part.numel() for part in kept))
        sums = torch.stack([part if part.ndim == 2 else part[-1] for part in kept[-3:]])
        factors = read_factors(mixer)[0, -1]
        read = normalize(query, dim=-1)[0, -1] @ (factors[:, None, None] * sums).sum(dim=0)
        missed.append(apart(read, output(mixer)[0, -1, 0]))
    return argued(
        {
            "3 d² numbers at both lengths": numbers == [3 * 8**2] * 2,
            "the output of the library is read from them": max(missed) <= 1e-10,
        },
        observed=max(missed),
        figures={"numbers kept after 16 and 64 tokens": numbers},
    )


def products_at_lag_two(turn: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """One query and one key at every place, two tokens apart, turned by their positions."""
    rng, position = generator(), torch.arange(24, dtype=torch.float64)
    query, key = (turn(normal(rng, 8).expand(24, 8), position) for _ in range(2))
    return (query[2:] * key[:-2]).sum(dim=-1)


@check("ZER-22")
def embedding_is_no_rotation(turn=interleaved_and_halved):
    """Products at one lag differ from place to place."""
    products = products_at_lag_two(turn)
    spread = float(products.max() - products.min())
    return shown(spread, beyond=1e-6, case={"product at lag 2 varies by": spread})


@check("ZER-45")
def rotary_cosine_is_of_the_lag(turn=rotated):
    """Products at one lag are the same at every place."""
    products = products_at_lag_two(turn)
    return measured(float(products.max() - products.min()), within=1e-12)


@check("ZER-44")
def orders_are_not_orthogonal(orders=16):
    """The largest cosine of first and higher orders among 1,000 draws of eight logits.

    Args:
        orders: where the exponential series ends; at 2, symmetric logits make them orthogonal.
    """
    logits = normal(0, 1000, 8)
    if orders == 2:
        logits = torch.cat([logits, -logits], dim=-1)
    first = logits - logits.mean(dim=-1, keepdim=True)
    higher = sum(first**k / math.factorial(k) for k in range(2, orders + 1))
    higher = higher - higher.mean(dim=-1, keepdim=True)
    cosine = torch.nn.functional.cosine_similarity(first, higher, dim=-1)
    case = {"cosines from, to": [float(cosine.min()), float(cosine.max())]}
    return shown(float(cosine.abs().max()), beyond=0.1, case=case)


@check("ZER-24")
def encoder_means_are_too_large(mean=mean_by_own_place):
    """Six vectors and a prior, all the same: so is their mean.

    Args:
        mean: from vectors and a prior that counts once to what every token takes for their mean.
    """
    u = torch.ones(6, 1, dtype=torch.float64)
    means = mean(u, u[0]).flatten()
    case = {"tokens": 6, "every_vector": 1.0, "means": means.tolist()}
    return shown(float((means - 1).abs().max()), beyond=1e-9, case=case)
