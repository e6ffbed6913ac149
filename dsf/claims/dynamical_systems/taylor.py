"""Softmax attention with the exponential series cut off: finite states, and what they miss."""

import math
from collections.abc import Callable

import torch

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing
from dsf.claims.deciding import held
from dsf.claims.dynamical_systems.drawn import projected_tokens
from dsf.claims.dynamical_systems.paper_form import one_system
from dsf.evaluate import respond
from dsf.ingredients import series_error
from dsf.mixers import LinearAttention, SoftmaxAttention

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


def _falls(errors: list[float]) -> bool:
    return bool((torch.tensor(errors).diff() < 0).all())


CLAIMS = (
    Claim(
        id="DSF-4",
        statement=(
            "Monomial features up to order p, C(m + p, p) of them for key width m, approximate "
            "softmax attention with score errors of at most |x|^{p+1}/(p+1)! e^{|x|}."
        ),
        standing=Standing.DERIVED,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=monomials_approach_softmax,
        note=(
            "The outputs need not improve at every order: 1.12 at order 1, 1.15 at order 2. At odd "
            "orders a normaliser can reach zero (1 + x at x = -1); here none does."
        ),
    ),
)
