"""What the rows of InLine attention sum to, which signs they hold, and how large they get."""

import torch
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.certificates.identities import Row, in_line_row, in_line_sums_to_one
from dsf.claims.claim import Claim, Standing
from dsf.claims.deciding import argued, held
from dsf.claims.in_line.weights import TOKENS, WIDTH, drawn, in_line_rows, linear_rows
from dsf.ingredients.feature_maps import FeatureMap, identity

OFFICIAL_SCALE = WIDTH**-0.5 / TOKENS
QUERIES = 1000
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
                in_line_sums_to_one(row).verdict is Verdict.PROVED
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
    return held(
        "features of both signs leave the weights of linear attention unbounded and those of "
        "InLine attention bounded",
        {
            "denominators of both signs occur": (
                0 < part["negative denominators"] < whole["negative denominators"] < 1
            ),
            "linear weights above 10": all(f["largest linear weight"] > 10 for f in (whole, part)),
            "InLine weights below 1": all(f["largest InLine weight"] < 1 for f in (whole, part)),
        },
        method="1000 queries over 40 keys, d = 8, InLine at scale d^-1/2 / N",
        observed=whole["largest linear weight"],
        figures=figures,
    )


def _share(found: Tensor) -> float:
    return found.double().mean().item()


CLAIMS = (
    Claim(
        id="INL-9",
        statement="Rows of InLine attention sum to 1 and may hold negative weights.",
        standing=Standing.STATED,
        expected=Verdict.PROVED,
        check=rows_sum_to_one,
        note="The sum is the paper's; the signs were derived.",
    ),
    Claim(
        id="INL-16",
        statement="Kernels of both signs leave the weights of linear attention unbounded, while "
        "those of InLine attention stay bounded.",
        standing=Standing.DERIVED,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=sign_changing_kernels,
    ),
)
