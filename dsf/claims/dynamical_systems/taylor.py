"""Softmax attention with a truncated exponential series: numbers of states, and errors."""

import math
from collections.abc import Callable
from itertools import product

import sympy
import torch

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, held
from dsf.claims.dynamical_systems.drawn import projected_tokens
from dsf.claims.dynamical_systems.paper_form import one_system
from dsf.evaluate import respond
from dsf.mixers import LinearAttention, SoftmaxAttention
from dsf.mixers.ingredients import series_error

ORDERS = tuple(range(11))
ROUNDING = 1e-13
CLOSE = 1e-3
Expansion = Callable[[SoftmaxAttention, int], LinearAttention]


def monomials_approach_softmax(expansion: Expansion = SoftmaxAttention.expansion) -> Certificate:
    """States, scores and outputs at the orders 0 to 10, on twenty projected tokens."""
    query, key, value = projected_tokens()
    softmax = SoftmaxAttention(query=query, key=key, value=value)
    exact = respond(softmax.system(), softmax.signal())
    scores = query @ key.T * key.shape[-1] ** -0.5
    states, errors, smallest, bounded = [], [], [], []
    for order in ORDERS:
        near = expansion(softmax, order)
        series = near.feature_map(near.query) @ near.feature_map(near.key).T
        missed = (series - scores.exp()).abs() - ROUNDING * scores.abs().exp()
        bounded.append(bool((missed <= series_error(scores, order)).all()))
        states.append(one_system(near.system()).state_size)
        errors.append(float((respond(near.system(), near.signal()) - exact).abs().max()))
        smallest.append(float(series.tril().sum(dim=-1).min()))
    return held(
        "monomials up to order p give C(m + p, p) states, scores within |x|^(p+1)/(p+1)! e^|x|, "
        "and outputs that approach those of softmax attention",
        {
            "C(m + p, p) states": states == [math.comb(4 + order, order) for order in ORDERS],
            "every score is within the bound": all(bounded),
            "from order 3 on every order is closer": _falls(errors[3:]),
            "the outputs are close at order 10": errors[-1] < CLOSE,
            "normalisers of even orders are positive": min(smallest[::2]) > 0,
        },
        method="20 tokens, key width 4, scale 1/2, float64",
        observed=errors[-1],
        figures={
            "orders": list(ORDERS),
            "states": states,
            "largest output error": errors,
            "smallest normaliser": smallest,
            "orders with a normaliser not above zero": [
                order for order, least in zip(ORDERS, smallest, strict=True) if least <= 0
            ],
        },
    )


def one_over_factorial(powers: tuple[int, ...]) -> sympy.Rational:
    """The square of the factor of a monomial feature."""
    return sympy.Rational(1, math.prod(map(math.factorial, powers)))


def series_of_features(
    factor: Callable[[tuple[int, ...]], sympy.Rational] = one_over_factorial,
) -> Certificate:
    """Products of monomial features with symbols, degree by degree; the remainder of the series."""
    equal = True
    for width in (1, 2, 3):
        query, key = (sympy.symbols(f"{name}1:{width + 1}") for name in "qk")
        scores = sum(a * b for a, b in zip(query, key, strict=True))
        for degree in range(5):
            features = sum(
                factor(powers)
                * math.prod((a * b) ** n for a, b, n in zip(query, key, powers, strict=True))
                for powers in product(range(degree + 1), repeat=width)
                if sum(powers) == degree
            )
            equal &= sympy.expand(features - scores**degree / math.factorial(degree)) == 0
    p, x = sympy.Symbol("p", integer=True, positive=True), sympy.Symbol("x", positive=True)
    remainder = sympy.limit(x ** (p + 1) / sympy.factorial(p + 1) * sympy.exp(x), p, sympy.oo)
    return argued(
        "monomial features of all degrees have the inner product e^(q.k)",
        "the multinomial theorem, degree by degree; the remainder of the exponential series after "
        "degree p is at most |x|^(p+1)/(p+1)! e^|x|",
        {
            "features of degree p give (q.k)^p/p!, p up to 4, width up to 3 (symbols)": bool(equal),
            "the remainder goes to zero": remainder == 0,
        },
        method="symbols",
    )


def _falls(errors: list[float]) -> bool:
    return bool((torch.tensor(errors).diff() < 0).all())


CLAIMS = (
    Claim(
        id="DSF-4",
        table=Table.OWN,
        statement=(
            "Monomial features up to order p, C(m + p, p) of them for key width m, approximate "
            "softmax attention with score errors of at most |x|^{p+1}/(p+1)! e^{|x|}."
        ),
        standing=Standing.OWN,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=monomials_approach_softmax,
        quote=(
            "The exponential in softmax attention e^{q_i^⊤ k_j} can be expressed in terms of its "
            "Taylor expansion, which consists of an infinite sum of polynomial kernels of "
            "increasing degree p, …"
        ),
        place="proof of Lemma 1, 3.2.1; App. C",
        hypotheses=("infinite series; the paper gives no truncation error",),
        note=(
            "The outputs need not improve at every order: 1.12 at order 1, 1.15 at order 2. At "
            "odd orders a normaliser can reach zero (1 + x at x = -1); here none does."
        ),
    ),
    Claim(
        id="DSF-29",
        table=Table.PAPER,
        statement=(
            "Softmax attention is separable attention with the monomial features of all degrees."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=series_of_features,
        quote=(
            "Softmax attention (2) can be expressed by separable attention (13) with "
            "φ(q_i)^⊤ψ(k_j) = φ(q_i)^⊤φ(k_j) = e^{q_i^⊤k_j}, η(q_i, **k**_i) = Σ_{j≤i} "
            "e^{q_i^⊤k_j}, …"
        ),
        place="Lemma 1, 3.2.1",
        hypotheses=(
            "infinitely many features (n = ∞)",
            "the factor √d_k of the scores dropped",
        ),
    ),
)
