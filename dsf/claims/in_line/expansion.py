"""InLine attention as the beginning of the series of softmax attention."""

import math
from collections.abc import Sequence
from itertools import pairwise

import sympy
import torch
from sympy import Expr, Rational

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued
from dsf.claims.in_line.weights import TOKENS, drawn, in_line_rows, softmax_rows
from dsf.evaluate import attention_map
from dsf.mixers import InLineAttention, ZeroSumAttention

NEAR, SLOPE_WITHIN, GAP_WITHIN = 1e-14, 0.05, 0.01
SIZES = (0.1, 0.01, 0.001)
SCORES = sympy.symbols("z1:5", real=True)
MANY = len(SCORES)


def first_order(factor: int = 1) -> Certificate:
    """Derivatives of softmax(t z) at t = 0, and the gap to InLine as the scores shrink."""
    t = sympy.Symbol("t", real=True)
    total = sum(sympy.exp(t * z) for z in SCORES)
    mean = sum(SCORES) / MANY
    spread = sum((z - mean) ** 2 for z in SCORES) / MANY
    first, second = [], []
    for z in SCORES:
        weight = sympy.exp(t * z) / total
        in_line = Rational(1, MANY) + t * factor * (z - mean) / MANY
        first += [(weight - in_line).subs(t, 0), (weight - in_line).diff(t).subs(t, 0)]
        leading = ((z - mean) ** 2 - spread) / (2 * MANY)
        second.append(weight.diff(t, 2).subs(t, 0) / 2 - leading)
    query, key = drawn(1)
    gaps = [_gap(size * query, key, factor) for size in SIZES]
    slopes = [math.log10(a / b) for a, b in pairwise(gaps)]
    deviation = (key @ query[0]) - (key @ query[0]).mean()
    leading = (deviation.square() - deviation.square().mean()).abs().max() / (2 * TOKENS)
    predicted = [leading.item() * size**2 for size in SIZES]
    return argued(
        "InLine attention with identity features and the factor 1/N is the first-order Taylor "
        "polynomial of softmax attention in the scores",
        "two functions agree to first order if value and derivative agree at zero",
        {
            "value and first derivative agree, with symbols": _vanish(first),
            "the next term is (dz^2 - mean dz^2)/(2N), with symbols": _vanish(second),
            f"the gap shrinks by slope 2 +- {SLOPE_WITHIN}": all(
                abs(s - 2) <= SLOPE_WITHIN for s in slopes
            ),
            f"the next term predicts the gap to {GAP_WITHIN:.0%}": all(
                abs(gap / value - 1) <= GAP_WITHIN
                for gap, value in zip(gaps[1:], predicted[1:], strict=True)
            ),
        },
        method="symbols for four tokens; 40 tokens, d = 8, scores times 0.1, 0.01, 0.001",
        observed=gaps[-1],
        figures={"sizes": list(SIZES), "gaps": gaps, "predicted": predicted, "slopes": slopes},
    )


def _gap(query: torch.Tensor, key: torch.Tensor, factor: int) -> float:
    in_line = in_line_rows(query, key, scale=factor / TOKENS)
    return (softmax_rows(query, key) - in_line).abs().max().item()


def _vanish(left: Sequence[Expr]) -> bool:
    return all(sympy.simplify(part) == 0 for part in left)


def zero_sum_with_gates(first: int = 1, higher: int = 0, zero: int = 1) -> Certificate:
    """ZeroS weights of pairwise scores with these gates, less the InLine weights."""
    total, mean = sum(sympy.exp(z) for z in SCORES), sum(SCORES) / MANY
    left = []
    for z in SCORES:
        linear = (z - mean) / MANY
        rest = sympy.exp(z) / total - Rational(1, MANY) - linear
        weight = first * linear + higher * rest + Rational(zero, MANY)
        left.append(weight - (z / MANY - mean / MANY + Rational(1, MANY)))
    query, key = drawn(1)
    scores, value = key @ query[0], torch.ones_like(key[:, :1])
    gates = torch.ones_like(scores)
    zero_sum = ZeroSumAttention(
        value=value,
        logit=scores,
        first_order=first * gates,
        higher_order=higher * gates,
        zero_order=zero * gates,
    )
    in_line = InLineAttention(query=query.expand_as(key) / TOKENS, key=key, value=value)
    rows = [attention_map(mixer.system(), rows=-1) for mixer in (zero_sum, in_line)]
    off = (rows[0] - rows[1]).abs().max().item()
    return argued(
        "ZeroS weights with first_order = zero_order = 1 and higher_order = 0 on pairwise scores "
        "are InLine weights with the factor 1/N",
        "both are one polynomial in the scores",
        {
            "equal with symbols": _vanish(left),
            f"the last rows of the library's mixers agree, within {NEAR:g}": off <= NEAR,
        },
        method="symbols for four tokens; 40 tokens, d = 8",
        observed=off,
    )


CLAIMS = (
    Claim(
        id="INL-12",
        table=Table.OWN,
        statement=(
            "InLine attention with identity features and the factor 1/N is the first-order "
            "Taylor polynomial of softmax attention in the scores."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=first_order,
    ),
    Claim(
        id="INL-24",
        table=Table.OWN,
        statement=(
            "InLine attention is ZeroS on pairwise scores with first_order = zero_order = 1 and "
            "higher_order = 0."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=zero_sum_with_gates,
    ),
)
