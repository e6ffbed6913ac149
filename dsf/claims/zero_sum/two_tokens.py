"""Zero-sum weights of two tokens: one number, as a function of the gap between two logits."""

import numpy as np
import sympy
import torch
from scipy.optimize import brentq

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, shown
from dsf.claims.zero_sum.hulls import separation
from dsf.claims.zero_sum.weighing import last_row

ROUNDING = 1e-12


def weight(gap: float, first: float, higher: float) -> float:
    """The library's weight of the token whose logit is ``gap`` above the other's."""
    return float(last_row(torch.tensor([gap, 0.0], dtype=torch.float64), first, higher)[0])


def two_logits_one_weight(first: float = 0.3, higher: float = 0.7) -> Certificate:
    """Look for a second gap without weight besides 0."""
    low, high = 0.1, 20.0
    crosses = weight(low, first, higher) * weight(high, first, higher) < 0
    gap = float(brentq(weight, low, high, args=(first, higher), xtol=1e-13)) if crosses else 0.0
    found = weight(gap, first, higher)
    return shown(
        "different logit deviations can give equal zero-sum weights, if the gate of the higher "
        "orders is the larger one",
        gap if abs(found) <= ROUNDING else 0.0,
        beyond=low,
        case={"gates": [first, higher], "gaps": [0.0, gap], "weights": [0.0, found]},
        method="two tokens: a second zero of the weight",
    )


def difference_is_in_reach(first: float = 0.9, higher: float = 0.1) -> Certificate:
    """v_1 - v_2 against the segment of softmax, and between two gaps of ZeroS."""
    values = np.eye(2)
    outside = separation(values, np.array([1.0, -1.0]))
    s, gap = sympy.Rational(first).limit_denominator(100), sympy.Symbol("g", real=True)
    h = sympy.Rational(higher).limit_denominator(100)
    sigmoid = 1 / (1 + sympy.exp(-gap))
    exact = (s - h) * gap / 4 + h * (sigmoid - sympy.Rational(1, 2))
    below, above = (bool(exact.subs(gap, at) < 1) for at in (4, 5))
    crosses = below and not above
    root = float(brentq(lambda at: weight(at, first, higher) - 1, 4, 5)) if crosses else None
    return argued(
        "with two tokens v_1 - v_2 is no convex combination, and zero-sum weights (1, -1) exist",
        "a separating direction shows the first; the weight is continuous in the gap and passes 1",
        {
            "a direction separates v_1 - v_2 from the segment": outside.margin > ROUNDING,
            "the weight is below 1 at gap 4": below,
            "the weight is at least 1 at gap 5": not above,
            "the library agrees": abs(weight(4.5, first, higher) - float(exact.subs(gap, 4.5)))
            <= ROUNDING,
        },
        method="linear program; exact comparison at two gaps",
        observed=root,
    )


CLAIMS = (
    Claim(
        id="ZER-10",
        table=Table.OWN,
        statement=(
            "Two different gaps of logits can give one zero-sum weight, if the gate of the "
            "higher orders is the larger one."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=two_logits_one_weight,
        note=(
            "With gates 0.3 and 0.7 the gaps 0 and 3.2349 of two logits both give no weight. For "
            "a first-order gate at least as large as the other the map is one-to-one: the "
            "weights are the gradient of a strictly convex potential."
        ),
    ),
    Claim(
        id="ZER-19",
        table=Table.PAPER,
        statement="With two tokens v₁ - v₂ is out of softmax's reach and in reach of ZeroS.",
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=difference_is_in_reach,
        quote=(
            "… with softmax weights, a single attention layer cannot express differential or "
            "contrastive operations (even with just two tokens)."
        ),
        place="Convexity of Sum-to-One Weights; Abstract for ZeroS",
        hypotheses=("two tokens with independent values",),
        note="Gates 0.9 and 0.1 and a gap of 4.75427 give the weights (1, -1).",
    ),
)
