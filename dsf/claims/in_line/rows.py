"""What the rows of InLine attention sum to, which signs they have, and how large they are."""

import torch
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.certificates.identities import Row, in_line_row, in_line_sums_to_one
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, held
from dsf.claims.in_line.weights import TOKENS, WIDTH, drawn, in_line_rows, linear_rows
from dsf.mixers.ingredients.feature_maps import FeatureMap, identity

OFFICIAL_SCALE = WIDTH**-0.5 / TOKENS
QUERIES = 1000
FACTORS = (1, 10, 100, 1000)
GROWTH = 100
NEAR = 1e-10


def rows_sum_to_one(row: Row = in_line_row) -> Certificate:
    """Sum the row with symbols, for any number of tokens; count signs over 1000 queries."""
    query, key = drawn(QUERIES)
    rows = [in_line_rows(query, key, scale=scale) for scale in (1.0, OFFICIAL_SCALE)]
    off = max((part.sum(dim=-1) - 1).abs().max().item() for part in rows)
    negative = [_share(part < 0) for part in rows]
    return argued(
        "rows of InLine attention sum to 1, for any number of tokens, and may hold negative "
        "weights",
        "centring takes the sum of the scores away, and N times 1/N is 1; one negative weight is "
        "enough for 'may'",
        {
            "the row sums to one, with symbols": (
                in_line_sums_to_one(row).verdict is Verdict.ARGUED
            ),
            f"rows of the library's mixer do, within {NEAR:g}": off <= NEAR,
            "negative weights occur": min(negative) > 0,
        },
        method="matrix symbols of any size; 1000 queries over 40 keys, d = 8, identity features",
        observed=off,
        figures={
            "negative at scale 1": negative[0],
            "negative at scale d^-1/2 / N": negative[1],
        },
    )


def leaky(x: Tensor) -> Tensor:
    """LeakyReLU of slope 0.2."""
    return torch.nn.functional.leaky_relu(x, 0.2)


def sign_changing_kernels(features: FeatureMap = identity) -> Certificate:
    """Denominators and largest weights of linear attention beside the weights of InLine."""
    query, key = drawn(QUERIES)
    figures = {}
    for name, feature_map in {"identity": features, "LeakyReLU 0.2": leaky}.items():
        below = (feature_map(query) @ feature_map(key).sum(dim=0)) < 0
        linear = linear_rows(query, key, feature_map=feature_map)
        in_line = in_line_rows(query, key, feature_map=feature_map, scale=OFFICIAL_SCALE)
        figures[name] = {
            "negative denominators": _share(below),
            "largest linear weight": linear.abs().max().item(),
            "largest InLine weight": in_line.abs().max().item(),
        }
    whole, part = figures.values()
    grown = [
        in_line_rows(factor * query, key, scale=OFFICIAL_SCALE).abs().max().item()
        for factor in FACTORS
    ]
    return held(
        "features of both signs leave the weights of linear attention unbounded even for bounded "
        "queries and keys, for which those of InLine attention are bounded",
        {
            "denominators of both signs occur": (
                0 < part["negative denominators"] < whole["negative denominators"] < 1
            ),
            "linear weights above 10": all(f["largest linear weight"] > 10 for f in (whole, part)),
            "InLine weights below 1": all(f["largest InLine weight"] < 1 for f in (whole, part)),
            "InLine weights grow with the scores": grown[-1] > grown[0] * GROWTH,
        },
        method="1000 queries over 40 keys, d = 8, InLine at scale d^-1/2 / N",
        observed=whole["largest linear weight"],
        figures={
            **figures,
            "queries times": list(FACTORS),
            "largest InLine weight at these": grown,
        },
    )


def _share(found: Tensor) -> float:
    return found.double().mean().item()


CLAIMS = (
    Claim(
        id="INL-9",
        table=Table.OWN,
        statement="Rows of InLine attention sum to 1 and may hold negative weights.",
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=rows_sum_to_one,
        quote=(
            "InL_K(Q_i) = [φ(Q_i)^⊤φ(K_1), …, φ(Q_i)^⊤φ(K_N)]^⊤ - (1/N) Σ_s φ(Q_i)^⊤φ(K_s) + 1/N"
        ),
        place="README of LeapLabTHU/InLine@e463a6f, = eq. (5)",
        note="Both follow from the formula.",
    ),
    Claim(
        id="INL-16",
        table=Table.OWN,
        statement=(
            "For bounded queries and keys, features of both signs leave the weights of linear "
            "attention unbounded, while those of InLine attention are bounded."
        ),
        standing=Standing.OWN,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=sign_changing_kernels,
        note=(
            "Denominators of linear attention can come as near to zero as they like. InLine "
            "weights are linear in the scores, so they grow with them: ten times the queries, "
            "ten times the deviations."
        ),
    ),
)
