"""Whether rows of linear attention tell queries apart, by the number of features."""

from collections.abc import Callable
from functools import partial

import sympy
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import Certificate, Verdict, linear_injective
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, held, shown
from dsf.claims.in_line.weights import WIDTH, drawn, in_line_rows, linear_rows, softmax_rows
from dsf.measures import colliding_query, jacobian_rank
from dsf.mixers.ingredients.feature_maps import (
    FeatureMap,
    elu_plus_one,
    exp,
    identity,
    relu,
    second_order,
    softplus,
)

NEAR, APART, RECOVERED = 1e-12, 1e-2, 1e-9
MAPS: dict[str, FeatureMap] = {
    "identity": identity,
    "relu": relu,
    "elu_plus_one": elu_plus_one,
    "exp": exp,
    "softplus": softplus,
}


def by_factor(
    query: Float[Tensor, "queries key"], feature_map: str
) -> Float[Tensor, " queries key"]:
    """Queries whose features are 2.5 times those of ``query``."""
    return colliding_query(query, feature_map=feature_map)


def never_injective_up_to_width(
    collide: Callable[[Tensor, str], Tensor] = by_factor,
    maps: dict[str, FeatureMap] = MAPS,
) -> Certificate:
    """Rows of two queries with proportional features, by linear, softmax and InLine attention."""
    query, key = drawn(1)
    figures: dict[str, list[float]] = {"linear": [], "softmax": [], "InLine": []}
    for name, feature_map in maps.items():
        other = collide(query, name)
        rows = {
            "linear": [linear_rows(q, key, feature_map=feature_map) for q in (query, other)],
            "softmax": [softmax_rows(q, key) for q in (query, other)],
            "InLine": [in_line_rows(q, key, feature_map=feature_map) for q in (query, other)],
        }
        for kind, (first, second) in rows.items():
            figures[kind].append((first - second).abs().max().item())
    exact = [linear_injective(key, feature_map=n).verdict for n in ("identity", "relu")]
    exact.append(linear_injective(key, feature_map="elu_plus_one").verdict)
    return argued(
        "normalised linear attention whose continuous feature map has at most d features gives "
        "one row to two queries",
        "a row depends on the line of phi(q) alone; the lines in R^D, D <= d, form a manifold of "
        "dimension d - 1 at most, and no continuous map from R^d into it is one-to-one",
        {
            "a factor on the features cancels, with symbols": _cancels(),
            "no feature map widens": all(f(key).shape[-1] <= WIDTH for f in maps.values()),
            "the two queries get one linear row": max(figures["linear"]) <= NEAR,
            "softmax tells them apart": min(figures["softmax"]) > APART,
            "InLine tells them apart": min(figures["InLine"]) > APART,
            "pairs as fractions": set(exact) == {Verdict.REFUTED},
        },
        method="symbols, pairs for five feature maps, pairs of fractions for three of them",
        observed=max(figures["linear"]),
        figures={"feature maps": list(maps), **figures},
    )


def _cancels() -> bool:
    scores, factor = sympy.symbols("s1:4", positive=True), sympy.Symbol("c", positive=True)
    plain, scaled = scores[0] / sum(scores), factor * scores[0] / sum(factor * s for s in scores)
    return sympy.cancel(plain - scaled) == 0


def both_exponentials(x: Float[Tensor, "*axes key"]) -> Float[Tensor, "*axes features"]:
    """``[e^x, e^-x]``, positive, twice as many features as entries."""
    return torch.cat([x.exp(), (-x).exp()], dim=-1)


def random_features(x: Float[Tensor, "*axes key"]) -> Float[Tensor, "*axes 32"]:
    """Positive random features of the exponential kernel, 32 of them."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(32, x.shape[-1], generator=generator, dtype=x.dtype)
    return (x @ directions.mT - x.square().sum(dim=-1, keepdim=True) / 2).exp()


def more_features_can_be_injective(feature_map: FeatureMap = both_exponentials) -> Certificate:
    """Recover the query from its row: the row gives the features up to a factor.

    With ``[e^x, e^-x]`` the factor is known, since the two features of an entry have product 1.
    """
    query, key = drawn(1)
    row = linear_rows(query, key, feature_map=feature_map)[0]
    found = torch.linalg.lstsq(both_exponentials(key), row.unsqueeze(-1)).solution[:, 0]
    up, down = found.chunk(2)
    missed = ((up / down).log() / 2 - query[0]).abs().max().item()
    rank = _rank(partial(linear_rows, key=key, feature_map=feature_map), query)
    wider = {"second-order Taylor": second_order, "random": random_features}
    ranks = {
        name: _rank(partial(linear_rows, key=key, feature_map=other), query)
        for name, other in wider.items()
    }
    return shown(
        "with 2 d positive features normalised linear attention can tell all queries apart",
        float(rank - (WIDTH - 1)) if missed <= RECOVERED else 0.0,
        beyond=0.5,
        case={
            "features": "[e^x, e^-x]",
            "inverse": "q = log(z[:d] / z[d:]) / 2 where [e^K, e^-K] z is the row",
            "query": query[0].tolist(),
            "query recovered within": missed,
            "Jacobian rank, d = 8": rank,
            "Jacobian ranks of wider maps": ranks,
        },
        method="an explicit inverse, and Jacobian ranks by automatic derivatives",
    )


def _rank(rows: Callable[[Tensor], Tensor], query: Tensor) -> int:
    return int(jacobian_rank(lambda single: rows(single.unsqueeze(0))[0], query)[0])


def along_features(feature_map: FeatureMap, query: Float[Tensor, " key"]) -> Float[Tensor, " key"]:
    """The direction that only lengthens the features: Dphi(q)^-1 phi(q)."""
    jacobian = torch.autograd.functional.jacobian(feature_map, query)
    return torch.linalg.solve(jacobian, feature_map(query))


def jacobian_ranks(
    null: Callable[[FeatureMap, Tensor], Tensor] = along_features,
) -> Certificate:
    """Ranks of query -> row by softmax, InLine and linear attention, and the null direction."""
    query, key = drawn(1)
    softmax = _rank(partial(softmax_rows, key=key), query)
    ranks: dict[str, list[int]] = {"InLine": [], "linear": []}
    moved = 0.0
    smooth = {name: MAPS[name] for name in ("identity", "elu_plus_one", "exp", "softplus")}
    for feature_map in smooth.values():
        linear = partial(linear_rows, key=key, feature_map=feature_map)
        in_line = partial(in_line_rows, key=key, feature_map=feature_map)
        ranks["linear"].append(_rank(linear, query))
        ranks["InLine"].append(_rank(in_line, query))
        direction = null(feature_map, query[0]).unsqueeze(0)
        tangent = torch.autograd.functional.jvp(linear, query, direction)[1]
        moved = max(moved, tangent.abs().max().item())
    return held(
        "the Jacobian of query -> row has rank d for softmax and InLine and d - 1 for linear "
        "attention with d features, whose null direction is Dphi^-1 phi",
        {
            "softmax has rank d": softmax == WIDTH,
            "InLine has rank d": set(ranks["InLine"]) == {WIDTH},
            "linear has rank d - 1": set(ranks["linear"]) == {WIDTH - 1},
            "the null direction moves no weight": moved <= NEAR,
        },
        method="automatic derivatives at one query, four feature maps, 40 keys, d = 8",
        observed=moved,
        figures={"feature maps": list(smooth), "softmax": softmax, **ranks},
    )


CLAIMS = (
    Claim(
        id="INL-3",
        table=Table.PAPER,
        statement=(
            "Normalised linear attention with a continuous feature map of at most d features is "
            "not injective in its query."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=never_injective_up_to_width,
        quote=(
            "Firstly, we prove that linear attention is not injective, which is prone to assign "
            "identical attention weights to different query vectors, …"
        ),
        place="Abstract",
        hypotheses=(
            (
                'Proposition 2 as restated in Project-Navi/navi-SAD@137dc0c: "For any '
                'continuous feature map φ: R^d → R^d"'
            ),
        ),
        note=(
            "Queries with proportional features collide; softmax and InLine attention tell the "
            "same queries apart. A reader's doubt about the proof in Appendix A.2 (issue 8 of "
            "the repository) is unfounded as it is described there: an injective continuous map "
            "into R^d has an open image, and a sphere has no interior."
        ),
    ),
    Claim(
        id="INL-4",
        table=Table.OWN,
        statement=(
            "With more features than d, normalised linear attention can be injective in its query."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=more_features_can_be_injective,
        quote=(
            "Firstly, we prove that linear attention is not injective, which is prone to assign "
            "identical attention weights to different query vectors, …"
        ),
        place=(
            "Abstract, which has no condition; Proposition 2 as restated has features R^d → R^d"
        ),
        note=(
            "With the positive features [e^x, e^-x] the query comes back from its row; Taylor "
            "and random features have Jacobian rank d as well."
        ),
    ),
    Claim(
        id="INL-5",
        table=Table.OWN,
        statement=(
            "The Jacobian of the row of weights in the query has rank d for softmax and InLine "
            "attention, and d - 1 for linear attention with d features."
        ),
        standing=Standing.OWN,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=jacobian_ranks,
    ),
)
