"""Bounds on zero-sum weights and on their outputs."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import sympy
import torch
from scipy import special

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, out_of_reach
from dsf.claims.zero_sum.weighing import defined_row, last_row

Size = Callable[[list[Fraction], Fraction], Fraction]
"""A bound on |Σ w_i v_i|, squared, from the weights and the largest |v_i|²."""


def all_weights_at_the_largest(weights: list[Fraction], value: Fraction) -> Fraction:
    """(B t max|w|)², with B² = ``value``."""
    return value * (len(weights) * max(map(abs, weights))) ** 2


def outputs_are_bounded(size: Size = all_weights_at_the_largest) -> Certificate:
    """The two inequalities on drawn weights and values, in exact arithmetic."""
    rng = np.random.default_rng(0)
    kept = 0
    for tokens in (2, 5, 9) * 10:
        drawn = last_row(torch.from_numpy(3 * rng.standard_normal(tokens)), 0.7, 0.4)
        weights = [Fraction(w) for w in drawn.tolist()]
        rows = [[Fraction(v) for v in row] for row in rng.standard_normal((tokens, 3)).tolist()]
        sign = [[Fraction(1 if w > 0 else -1)] for w in weights]
        kept += all(
            _energy(weights, values) <= size(weights, max(_square(row) for row in values))
            for values in (rows, sign)
        )
    return argued(
        "|Σ w_i v_i| <= B t max|w| for values of length at most B",
        "the triangle inequality, and no |w_i| above the largest",
        {"30 drawn rows, random values and the signs of the weights, exactly": kept == 30},
        method="triangle inequality",
    )


def _square(row: list[Fraction]) -> Fraction:
    return sum((part * part for part in row), Fraction(0))


def _energy(weights: list[Fraction], values: list[list[Fraction]]) -> Fraction:
    columns = zip(*values, strict=True)
    return _square([sum(map(Fraction.__mul__, weights, column), Fraction(0)) for column in columns])


Constant = Callable[[np.ndarray, np.ndarray], float]
"""A bound on the largest weight from the deviations and from ρ."""


def stated_constant(deviation: np.ndarray, rho: np.ndarray) -> float:
    """max(1, max|δ|, max|ρ|/2) / t."""
    return float(max(1.0, np.abs(deviation).max(), np.abs(rho).max() / 2)) / len(deviation)


READINGS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "δ²": np.square,
    "δ² less its mean": lambda deviation: np.square(deviation) - np.square(deviation).mean(),
    "2 t ε, the exact remainder": lambda deviation: (
        2 * (len(deviation) * special.softmax(deviation) - 1 - deviation)
    ),
}
"""What ρ may be, from the deviations of the logits."""


def every_reading_is_exceeded(
    constant: Constant = stated_constant, gate: float = 0.9
) -> Certificate:
    """One token at logit 1 among others at -1; the ratio of the largest weight to each bound."""

    def ratio(tokens: int, gate: float, reading: str) -> float:
        logits = -np.ones(tokens)
        logits[0] = 1.0
        deviation = logits - logits.mean()
        allowed = constant(deviation, READINGS[reading](deviation))
        weights = defined_row(torch.from_numpy(logits), gate, gate)
        return float(weights.abs().max()) / allowed

    found = {
        reading: [ratio(8, gate, reading), ratio(8, 1.0, reading), ratio(4096, 1.0, reading)]
        for reading in READINGS
    }
    exact = found["2 t ε, the exact remainder"]
    return argued(
        "with each of three readings of ρ a weight exceeds max(1/t, |δ|/t, |ρ|/2t); with the exact "
        "remainder by no more than the factor σ¹ + σʰ, which is below 2",
        "with the exact remainder |w| <= σ¹ |δ|/t + σʰ |ρ|/2t, at most σ¹ + σʰ times the larger of "
        "the two",
        {
            **{f"exceeded if ρ = {reading}": part[0] > 1 for reading, part in found.items()},
            "with the exact remainder by less than σ¹ + σʰ": exact[0] <= 2 * gate
            and max(exact) <= 2,
        },
        method="eight tokens at gates of 0.9 and 1, 4096 tokens at open gates",
        observed=max(part[0] for part in found.values()),
        figures={"t = 8 at gates 0.9; at gates 1; t = 4096 at gates 1": found},
    )


def bound_as_printed() -> Certificate:
    """Which of the readings is meant stands in the appendix, which was not read."""
    return out_of_reach(
        "|w_i| <= max(1/t, |δ_i|/t, |ρ_i|/2t)",
        "the definition of ρ, which is not in the main text, and the fraction bar of the third "
        "term, which is lost in the copy; each of three readings fails by a factor below 2 or 4",
        trend={"largest weight over the bound, by reading": _ratios()},
    )


def _ratios() -> dict[str, float]:
    found = every_reading_is_exceeded().evidence
    (ratios,) = (part for name, part in found.items() if name != "hypotheses")
    return {reading: max(part) for reading, part in ratios.items()}


def derived_bound(reach: Any, grown: Any, first: Any, higher: Any) -> Any:
    """[2S first + higher (e^{2S} - 1 + 2S)] for logits within S, with ``grown`` = e^{2S}."""
    return 2 * reach * first + higher * (grown - 1 + 2 * reach)


def weights_are_bounded(bound: Callable[[Any, Any, Any, Any], Any] = derived_bound) -> Certificate:
    """Three inequalities whose differences have no negative coefficient, and 10 000 draws."""
    S, first, higher, y, m = sympy.symbols("S first higher y m", nonnegative=True)
    t, x = m + 1, y + 1  # at least one token, e^{2S} at least 1
    largest, smallest = x / (x + t - 1), 1 / (1 + (t - 1) * x)
    spare = bound(S, x, first, higher) - (2 * S * first + higher * (x - 1 + 2 * S))
    return argued(
        "|w_i| <= [2S first + higher (e^{2S} - 1 + 2S)] / t when every |s_i| <= S",
        "|w| <= first |δ|/t + higher (|softmax - 1/t| + |δ|/t); a softmax weight is largest when "
        "its logit is S and the others -S, smallest the other way round; |δ| <= 2S",
        {
            "t times the largest softmax weight exceeds 1 by at most e^{2S} - 1": _grows(
                (x - 1) - (t * largest - 1)
            ),
            "1 exceeds t times the smallest by at most e^{2S} - 1": _grows(
                (x - 1) - (1 - t * smallest)
            ),
            "the bound is at least the sum of the three parts": _grows(spare),
            "no draw exceeds it": _draws_exceed(bound) == 0,
        },
        method="polynomials without negative coefficients in non-negative symbols",
    )


def _grows(difference: sympy.Expr) -> bool:
    """Whether a rational function has no negative coefficient, above and below the line."""
    above, below = (sympy.expand(part) for part in sympy.fraction(sympy.factor(difference)))
    return all(
        bool(coefficient >= 0)
        for part in (above, below)
        for coefficient in part.as_coefficients_dict().values()
    )


def _draws_exceed(bound: Callable[[Any, Any, Any, Any], Any]) -> int:
    """How many of 10 000 drawn rows have a weight above the bound."""
    rng = np.random.default_rng(0)
    exceeding = 0
    for reach in (0.5, 1.0, 2.0, 4.0, 8.0):
        logits = reach * rng.uniform(-1, 1, (2000, 16))
        logits[:1000] = reach * np.sign(logits[:1000])
        first, higher = rng.uniform(0, 1, (2, 2000, 1))
        deviation = (logits - logits.mean(axis=1, keepdims=True)) / 16
        share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        weights = first * deviation + higher * (share - 1 / 16 - deviation)
        allowed = bound(reach, np.exp(2 * reach), first, higher) / 16
        exceeding += int((np.abs(weights) > allowed).any(axis=1).sum())
    return exceeding


CLAIMS = (
    Claim(
        id="ZER-11",
        table=Table.PAPER,
        statement="With values of length at most B the output of a row is at most B t max|w|.",
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=outputs_are_bounded,
        quote=("‖Σ_{i≤t} w_{t,i} v_i‖ ≤ max_i abs(w_{t,i}) Σ_{i≤t} ‖v_i‖ ≤ B t max_i abs(w_{t,i})"),
        place="Lemma 3.4",
        hypotheses=("‖v_i‖ ≤ B",),
    ),
    Claim(
        id="ZER-12",
        table=Table.PAPER,
        statement="The largest weight of a row is at most max{1/t, |δ|/t, |ρ|/2t}.",
        standing=Standing.STATED,
        expected=Verdict.UNKNOWN,
        check=bound_as_printed,
        quote=(
            "Moreover, since abs(w_{t,i}) ≤ max{1/t, abs(δ_{t,i})/t, abs(ρ_{t,i})/2t} and δ, ρ = "
            "O(1) under bounded logits, …"
        ),
        place="Lemma 3.4",
        hypotheses=(
            "bounded logits",
            "ρ is not defined in the main text",
        ),
        note=(
            "Open until the appendix is read; ZER-40 has all three readings. The rate 1/t is "
            "right (ZER-14)."
        ),
    ),
    Claim(
        id="ZER-13",
        table=Table.OWN,
        statement=(
            "For logits within S every weight is at most [2S σ¹ + σʰ (e^{2S} - 1 + 2S)] / t in "
            "size."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=weights_are_bounded,
        note="A constant for the rate O(1/t) of Lemma 3.4.",
    ),
    Claim(
        id="ZER-40",
        table=Table.OWN,
        statement=(
            "For each of three readings of ρ some weight exceeds max(1/t, |δ|/t, |ρ|/2t); if ρ "
            "is the exact remainder, never by more than the factor σ¹ + σʰ, which is below 2."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=every_reading_is_exceeded,
        note=(
            "ρ = δ², δ² less its mean, or 2 t ε. One token at logit 1 among seven at -1 gets 1.6 "
            "times the bound at gates of 0.9. For σ¹ + σʰ ≤ 1 the bound with the exact remainder "
            "is right."
        ),
    ),
)
