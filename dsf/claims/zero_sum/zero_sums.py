"""What zero-sum weights add up to, with symbols for any number of tokens.

A weight is affine in the exponential e and the logit s of its token. The sum over a row is
therefore the same expression with e, s and 1 replaced by their sums E, P and t.
"""

from dataclasses import replace

import sympy
import torch

from dsf.certificates import Certificate, Verdict, zero_sums
from dsf.claims.claim import Claim, Standing
from dsf.claims.deciding import argued, identical
from dsf.claims.zero_sum.weighing import radial
from dsf.evaluate import attention_map
from dsf.mixers import ZeroSumAttention

e, s, E, P, t = sympy.symbols("e s E P t", positive=True)
first, higher, zero = sympy.symbols("first higher zero", real=True)

DEVIATION = s - P / t
RADIAL = first * DEVIATION / t + higher * (e / E - 1 / t - DEVIATION / t)

ROUNDING = 1e-15


def row_sum(weight: sympy.Expr) -> sympy.Expr:
    """The sum over the t tokens of a row.

    Raises:
        ValueError: if the weight is not affine in e and s.
    """
    affine = sympy.Poly(sympy.expand(weight), e, s)
    if affine.total_degree() > 1:
        raise ValueError(f"row_sum: 'weight' must be affine in e and s, but it is {weight}.")
    return sympy.simplify(
        affine.coeff_monomial(e) * E + affine.coeff_monomial(s) * P + affine.coeff_monomial(1) * t
    )


def radial_weights_sum_to_zero(weight: sympy.Expr = RADIAL) -> Certificate:
    """Sum the row with symbols, and the rows of a drawn map exactly."""
    rng = torch.Generator().manual_seed(0)
    logits, *orders = torch.randn(3, 64, generator=rng, dtype=torch.float64)
    map = attention_map(radial(logits, orders[0].sigmoid(), orders[1].sigmoid()).system())
    stored = zero_sums(map, tolerance=1e-14)
    return argued(
        "radial zero-sum weights sum to zero, for any number of tokens",
        "a sum of affine functions is that function of the sums",
        {
            "the symbolic sum is zero": row_sum(weight) == 0,
            "every row of a stored map sums to zero within 1e-14": stored.verdict is Verdict.PROVED,
        },
        method="symbolic row sum; exact sums of a stored map",
        observed=stored.observed,
    )


SCAN = (
    higher / E,
    (first - higher) / t,
    (P / t**2 - 1 / t) * higher - P / t**2 * first + zero / t,
)
"""Factors of e, of s and of one."""


def scan_coefficients_are_right(
    coefficients: tuple[sympy.Expr, sympy.Expr, sympy.Expr] = SCAN,
) -> Certificate:
    """Expand the definition and compare."""
    a, b, c = coefficients
    missed = sympy.expand(RADIAL + zero / t - (a * e + b * s + c))
    return identical("a e + b s + c is the zero-sum weight", missed, method="symbolic expansion")


def first_row_is_zero(weight: sympy.Expr = RADIAL) -> Certificate:
    """One token: its exponential and its logit are the sums."""
    mixer = replace(
        ZeroSumAttention.draw(torch.Generator().manual_seed(0), steps=6), zero_order=None
    )
    stored = float(attention_map(mixer.system(), rows=0).abs().max())
    return argued(
        "the first row of zero-sum attention is zero, whatever the input",
        "with one token in reach E = e, P = s and t = 1",
        {
            "the symbolic weight is zero": sympy.expand(weight.subs({E: e, P: s, t: 1})) == 0,
            "the library's first row is zero within 1e-15": stored <= ROUNDING,
        },
        method="substitution",
        observed=stored,
    )


CLAIMS = (
    Claim(
        id="ZER-1",
        statement="The radial weights of ZeroS sum to zero in every row.",
        standing=Standing.STATED,
        expected=Verdict.PROVED,
        check=radial_weights_sum_to_zero,
    ),
    Claim(
        id="ZER-4",
        statement="The three coefficients of the linear-time scan reproduce the weights.",
        standing=Standing.STATED,
        expected=Verdict.PROVED,
        check=scan_coefficients_are_right,
    ),
    Claim(
        id="ZER-18",
        statement="The first row of a zero-sum head is identically zero.",
        standing=Standing.DERIVED,
        expected=Verdict.PROVED,
        check=first_row_is_zero,
        note="Without the zero order a head says nothing at the first token.",
    ),
)
