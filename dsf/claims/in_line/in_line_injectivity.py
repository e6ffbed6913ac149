"""When InLine rows tell queries apart: with features that do, over enough keys."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import Certificate, Verdict, injective
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, out_of_reach, shown
from dsf.claims.in_line.weights import drawn, in_line_rows
from dsf.mixers.ingredients.feature_maps import FeatureMap, elu_plus_one, identity, relu

NEAR = 1e-9


def undone_elu(y: Float[Tensor, "*axes key"]) -> Float[Tensor, "*axes key"]:
    """The inverse of elu + 1."""
    return torch.where(y > 1, y - 1, y.clamp(max=1).log())


Inverse = Callable[[Tensor], Tensor]
WITH_INVERSE: tuple[tuple[FeatureMap, Inverse], ...] = (
    (identity, identity),
    (elu_plus_one, undone_elu),
)


def injective_with_such_features(
    maps: tuple[tuple[FeatureMap, Inverse], ...] = WITH_INVERSE,
) -> Certificate:
    """Exact rank of [phi(K), 1], and twenty queries back from their rows."""
    query, key = drawn(20)
    ranks, missed = [], []
    for feature_map, inverse in maps:
        features = feature_map(key)
        ranks.append(injective(features, first_row=len(key) - 1).verdict)
        rows = in_line_rows(query, key, feature_map=feature_map)
        columns = torch.cat([features, torch.ones_like(features[:, :1])], dim=-1)
        found = torch.linalg.lstsq(columns, rows.mT).solution[:-1].mT
        missed.append((inverse(found) - query).abs().max().item())
    return argued(
        "InLine attention is injective in its query if phi is and rank [phi(K), 1] = d + 1",
        "equal rows give [phi(K), 1] (phi(p) - phi(q), -c) = 0, hence phi(p) = phi(q) and p = q",
        {
            "[phi(K), 1] has full rank, exactly": set(ranks) == {Verdict.PROVED},
            "phi has an inverse, and queries come back from their rows": max(missed) <= NEAR,
        },
        method="exact ranks, and least squares from row to query, for identity and elu + 1",
        observed=max(missed),
    )


def for_which_kernels() -> Certificate:
    """The proposition about InLine attention was not read."""
    return out_of_reach(
        "the paper's Proposition 3 states for which kernels InLine attention is injective",
        "the text of Proposition 3; with ReLU, one of the kernels of the released code, it is not "
        "injective",
    )


def not_injective_with_relu(feature_map: FeatureMap = relu) -> Certificate:
    """Rows of a query and of the same query with its negative entries doubled."""
    query, key = drawn(1)
    other = torch.where(query < 0, 2 * query, query)
    rows = [in_line_rows(q, key, feature_map=feature_map) for q in (query, other)]
    return shown(
        "InLine attention with ReLU features gives one row to two queries",
        (query - other).norm().item() if torch.equal(*rows) else 0.0,
        beyond=0.5,
        case={
            "feature map": "ReLU",
            "query": query[0].tolist(),
            "other": other[0].tolist(),
            "largest difference of the rows": (rows[0] - rows[1]).abs().max().item(),
        },
        method="two queries with equal features",
    )


CLAIMS = (
    Claim(
        id="INL-6",
        table=Table.OWN,
        statement=(
            "InLine attention is injective in its query if its feature map is and rank [φ(K), 1] "
            "= d + 1."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=injective_with_such_features,
        note="The paper has a Proposition 3, which was not read.",
    ),
    Claim(
        id="INL-7",
        table=Table.PAPER,
        statement=(
            "What the paper states about the injectivity of InLine attention (Proposition 3) is "
            "open."
        ),
        standing=Standing.SECOND_HAND,
        expected=Verdict.UNKNOWN,
        check=for_which_kernels,
        place="Proposition 3, not read",
        note=(
            "What is so: with an injective feature map and enough keys it is injective (INL-6), "
            "with ReLU it is not (INL-25)."
        ),
    ),
    Claim(
        id="INL-25",
        table=Table.OWN,
        statement=(
            "InLine attention with ReLU features, which its authors train, is not injective in "
            "its query."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=not_injective_with_relu,
        quote=(
            "… if the attention function is not injective, different queries will induce "
            "identical attention distributions, leading to severe semantic confusion within the "
            "feature space."
        ),
        place="README of LeapLabTHU/InLine@e463a6f",
        note=(
            "ReLU forgets negative entries: doubling them changes the query and leaves every "
            "weight as it is."
        ),
    ),
)
