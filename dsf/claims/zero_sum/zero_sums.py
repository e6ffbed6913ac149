"""What zero-sum weights add up to, with symbols for any number of tokens.

A weight is affine in the exponential e and the logit s of its token. The sum over a row is
therefore the same expression with e, s and 1 replaced by their sums E, P and t.
"""

from collections.abc import Callable
from dataclasses import replace

import sympy
import torch
from torch import Tensor

from dsf.certificates import Certificate, Verdict, zero_sums
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, identical, shown
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


def first_rows_differ(*, kept: bool = True) -> Certificate:
    """The first row with a zero order and without."""
    mixer = ZeroSumAttention.draw(torch.Generator().manual_seed(0), steps=6)
    zero = torch.full_like(mixer.logit, 0.5)
    rows = [
        attention_map(replace(mixer, zero_order=order).system(), rows=0)
        for order in (zero if kept else None, None)
    ]
    return shown(
        "a layer that keeps the zero order and one that does not have different first rows",
        float((rows[0] - rows[1]).abs().max()),
        beyond=1e-9,
        case={"largest weight of row 1": [float(row.abs().max()) for row in rows]},
        method="6 tokens, zero order 1/2 and none",
    )


def gates_differ(other: Callable[[Tensor], Tensor] = torch.sigmoid) -> Certificate:
    """Both gates at the same numbers."""
    x = torch.linspace(-4, 4, 9, dtype=torch.float64)
    pair = x.tanh(), other(x)
    return shown(
        "tanh and sigmoid are different gates, and a sigmoid is never 0",
        float((pair[0] - pair[1]).abs().max()),
        beyond=1e-9,
        case={"x": x.tolist(), "tanh": pair[0].tolist(), "the other": pair[1].tolist()},
        method="nine numbers",
    )


CLAIMS = (
    Claim(
        id="ZER-1",
        table=Table.PAPER,
        statement="The radial weights of ZeroS sum to zero in every row.",
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=radial_weights_sum_to_zero,
        quote=(
            "… defining zero-sum weights: w_{t,i} = σ¹_t δ_{t,i}/t + σ^h_t ε_{t,i}, Σ_{i≤t} "
            "w_{t,i} = 0."
        ),
        place="Reweighted Zero-sum Softmax",
        hypotheses=("zero order off",),
    ),
    Claim(
        id="ZER-4",
        table=Table.PAPER,
        statement="The three coefficients of the linear-time scan reproduce the weights.",
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=scan_coefficients_are_right,
        quote=(
            "α_t = σ^h_t/E_t, β_t = (σ¹_t-σ^h_t)/t, γ_t = (P_t/t² - 1/t)σ^h_t - (P_t/t²)σ¹_t + "
            "σ⁰_t/t"
        ),
        place="Linear-Time Scan",
        hypotheses=("logits s_i of token i alone",),
    ),
    Claim(
        id="ZER-18",
        table=Table.OWN,
        statement="The first row of a zero-sum head is identically zero.",
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=first_row_is_zero,
        quote="our implementation retains the zero-order term in the first layer",
        place="after Cor. 3.2",
        note=(
            "Without the zero order a head says nothing at the first token; the quoted sentence "
            "is in favour of keeping it."
        ),
    ),
    Claim(
        id="ZER-31",
        table=Table.SLIP,
        statement=(
            "After Cor. 3.2 the implementation keeps the zero order in the first layer, in the "
            "experiments it does not."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=first_rows_differ,
        quote=(
            "To strictly ensure this direction is not lost, our implementation retains the "
            "zero-order term in the first layer, …"
        ),
        place="after Cor. 3.2",
        hypotheses=(
            (
                'opening of the experiments: "For simplicity, we do not apply first-layer 0-th '
                'order term addition in our experiments."'
            ),
        ),
        note="The two layers differ in their first row.",
    ),
    Claim(
        id="ZER-32",
        table=Table.SLIP,
        statement="The gate of the zero order is tanh in one place and a sigmoid in another.",
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=gates_differ,
        quote=(
            "For the first attention layer, we can optionally preserve the zero-order term using "
            "σ⁰_t = tanh(g⁰_t), …"
        ),
        place="Reweighted Zero-sum Softmax",
        hypotheses=(
            ('Linear-Time Scan: "σ⁰_t = sigmoid(x_t W⁰_g) (with fixed σ⁰_t = 0 by default)"'),
        ),
        note="A sigmoid is never 0. SequenceLab has tanh.",
    ),
)
