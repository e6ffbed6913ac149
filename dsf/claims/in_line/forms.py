"""One map in several forms: in linear time, as the released code computes it, and as a system."""

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from sympy import MatrixSymbol, OneMatrix, Symbol, ZeroMatrix
from sympy.matrices.expressions.matexpr import MatrixExpr
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.certificates.identities import TOKENS, Row, in_line_row
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, held
from dsf.evaluate import attention_map, respond
from dsf.measures import hankel_ranks
from dsf.mixers import InLineAttention
from dsf.mixers.ingredients.feature_maps import FeatureMap, elu_plus_one, identity
from dsf.systems.system import System

Output = Callable[[MatrixExpr, MatrixExpr], MatrixExpr]
Parts = tuple[Tensor, Tensor, Tensor]
NEAR = 1e-12
ONES = OneMatrix(TOKENS, 1)
SCALE = Symbol("c", positive=True)


def in_linear_time(scores: MatrixExpr, value: MatrixExpr) -> MatrixExpr:
    """One output from the two sums that all queries share: over keys and values, over keys."""
    total = scores.T * value
    return total - (scores.T * ONES) * (ONES.T * value) / TOKENS + (ONES.T * value) / TOKENS


def linear_time_form(output: Output = in_linear_time) -> Certificate:
    """Sum weights times values in the other order, with symbols; the library does both."""
    scores, value = (MatrixSymbol(name, TOKENS, 1) for name in "sv")
    left = (output(scores, value) - in_line_row(scores).T * value).expand().doit()
    query, key, values = _drawn(40)
    mixer = _mixer(query, key, values)
    by_map = attention_map(mixer.system()) @ values
    by_system = respond(mixer.system(), mixer.signal()).squeeze(-2)
    off = max(_relative(part, by_map) for part in (_linear_time(query, key, values), by_system))
    return argued(
        "phi(q) (sum phi(k)' v) - (phi(q) . sum phi(k) - 1) mean v is the InLine map times the "
        "values",
        "the same finite sum in another order",
        {
            "equal with symbols, for any number of tokens": left == ZeroMatrix(1, 1),
            f"equal in the library and by the formula, within {NEAR:g}": off <= NEAR,
        },
        method="matrix symbols of any size; 40 tokens, d = 8, elu + 1",
        observed=off,
    )


def released(scores: MatrixExpr) -> MatrixExpr:
    """The released row: c/n on every score, and (1 - c mean score)/n on every value."""
    return SCALE * scores / TOKENS + ONES / TOKENS - SCALE * ONES * (ONES.T * scores) / TOKENS**2


def released_code(row: Row = released) -> Certificate:
    """The released row against InLine of scaled queries, with symbols and with numbers."""
    scores = MatrixSymbol("s", TOKENS, 1)
    left = (row(scores) - in_line_row(SCALE * scores / TOKENS)).expand().doit()
    query, key, value = _drawn(40)
    scaled = query * query.shape[-1] ** -0.5 / len(key)
    mixer = _mixer(scaled, key, value, feature_map=identity)
    ours = attention_map(mixer.system()) @ value
    off = (_released(query, key, value) - ours).abs().max().item()
    return argued(
        "the released code is InLine attention with phi(Q) = Q d^-1/2 / N and phi(K) = K",
        "both rows are one polynomial in the scores",
        {
            "equal with symbols, for any number of tokens": left == ZeroMatrix(TOKENS, 1),
            f"equal in the library, within {NEAR:g}": off <= NEAR,
        },
        method="matrix symbols of any size; 40 tokens, d = 8",
        observed=off,
    )


def order(extra: int = 1) -> Certificate:
    """States and Hankel ranks of causal InLine, and its map against the direct formula."""
    query, key, value = _drawn(30)
    mixer = _mixer(query, key, value, causal=True)
    weights = attention_map(mixer.system())
    scores = elu_plus_one(query) @ elu_plus_one(key).mT
    reach = torch.ones_like(scores).tril()
    tokens = reach.sum(dim=-1, keepdim=True)
    centred = scores - (scores * reach).sum(dim=-1, keepdim=True) / tokens
    off = ((centred + 1 / tokens) * reach - weights).abs().max().item()
    ranks = hankel_ranks(weights).tolist()
    width = key.shape[-1]
    return held(
        "causal InLine attention is a system of d + 1 states",
        {
            "the library's system has d + 1 states": cast("System", mixer.system()).state_size
            == width + extra,
            "no Hankel block needs more, and some need all": max(ranks) == width + extra,
            f"its map is the direct formula, within {NEAR:g}": off <= NEAR,
        },
        method="30 tokens, d = 8, elu + 1; ranks at 1e-10 relative",
        observed=off,
        figures={"Hankel ranks": ranks},
    )


def _drawn(tokens: int) -> Parts:
    rng = np.random.default_rng(0)
    query, key, value = (torch.tensor(rng.standard_normal((tokens, 8))) for _ in range(3))
    return query, key, value


def _mixer(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    feature_map: FeatureMap = elu_plus_one,
    causal: bool = False,
) -> InLineAttention:
    return InLineAttention(
        query=query, key=key, value=value, feature_map=feature_map, causal=causal
    )


def _linear_time(query: Tensor, key: Tensor, value: Tensor) -> Float[Tensor, "time channel"]:
    read, write = elu_plus_one(query), elu_plus_one(key)
    share = (read @ write.sum(dim=0) - 1).unsqueeze(-1)
    return read @ (write.mT @ value) - share * value.mean(dim=0)


def _released(query: Tensor, key: Tensor, value: Tensor) -> Float[Tensor, "time channel"]:
    scale = query.shape[-1] ** -0.5
    kept = key.mT @ value * (scale / len(key))
    share = 1 - scale * (query @ key.mean(dim=0)).unsqueeze(-1)
    return query @ kept + share * value.mean(dim=0)


def _relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


CLAIMS = (
    Claim(
        id="INL-10",
        table=Table.PAPER,
        statement="InLine attention computed in linear time gives its map times the values.",
        standing=Standing.AUTHORS,
        expected=Verdict.ARGUED,
        check=linear_time_form,
        quote=(
            "In linear and inline attention, the two computation orders (QK)V and Q(KV) share "
            "identical forward results and backward gradients."
        ),
        place="the first author in issue 4 of LeapLabTHU/InLine, 27 December 2024",
        hypotheses=("exact arithmetic",),
    ),
    Claim(
        id="INL-11",
        table=Table.CODE,
        statement=(
            "The released code is InLine attention with φ(Q) = Q d^(-1/2) / N and φ(K) = K."
        ),
        standing=Standing.CODE,
        expected=Verdict.ARGUED,
        check=released_code,
        quote=(
            "This factor can be equivalently achieved by scaling \\phi(Q) = \\phi(Q) * "
            "self.scale / n"
        ),
        place=(
            "LeapLabTHU/InLine@e463a6f: models/inline_swin.py 262-266; also the pvt and cswin "
            "models"
        ),
        note="The authors say so in the comment quoted.",
    ),
    Claim(
        id="INL-13",
        table=Table.OWN,
        statement="Causal InLine attention is a system with d + 1 states.",
        standing=Standing.OWN,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=order,
    ),
)
