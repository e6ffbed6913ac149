"""Whether different queries get different rows of weights (injectivity of attention)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

Row = Callable[[Tensor], Tensor]
FACTOR = 2.5
FAR_BELOW = -40.0  # e^q is nothing beside 1 in float64


class KeyRank(NamedTuple):
    """Rank and smallest singular value of keys with a column of ones."""

    rank: Int[Tensor, "*batch"]
    full: int
    margin: Float[Tensor, "*batch"]


def key_rank(key: Float[Tensor, "*batch tokens key"], *, tolerance: float = 1e-9) -> KeyRank:
    """Rank of [K, 1] and its smallest singular value.

    A softmax row over these keys is injective in its query exactly when the rank is d + 1. The
    numerical rank counts singular values above ``tolerance`` times the largest; for a certificate
    use ``dsf.certify.injective``.

    Source: InLine attention, arXiv:2412.06590, proposition on softmax; the condition is sharp.
    """
    ones = torch.ones_like(key[..., :1])
    values = torch.linalg.svdvals(torch.cat([key, ones], dim=-1))
    rank = (values > tolerance * values.amax(dim=-1, keepdim=True)).sum(dim=-1)
    full = key.shape[-1] + 1
    margin = values[..., -1] if key.shape[-2] >= full else torch.zeros_like(values[..., 0])
    return KeyRank(rank, full, margin)


def jacobian_rank(
    row: Row, query: Float[Tensor, "queries key"], *, tolerance: float = 1e-6
) -> Int[Tensor, " queries"]:
    """Rank of the Jacobian of ``query -> row of weights`` at each query, by automatic derivatives.

    If it is below the key width, some direction of the query does not change the weights. Singular
    values below ``tolerance`` times the largest count as zero; a constant row has rank 0.
    """
    ranks = []
    for single in query:
        jacobian = torch.autograd.functional.jacobian(row, single)
        values = torch.linalg.svdvals(jacobian)
        ranks.append(((values > tolerance * values.max()) & (values > 0)).sum())
    return torch.stack(ranks)


def confusions(
    weights: Float[Tensor, "queries tokens"],
    query: Float[Tensor, "queries key"],
    *,
    weights_within: float = 1e-3,
    queries_beyond: float = 1e-2,
    relative: bool = False,
) -> int:
    """Number of pairs of different queries whose rows of weights are almost equal.

    Counts pairs whose rows are less than ``weights_within`` apart (l2) and whose queries are more
    than ``queries_beyond`` apart. With ``relative=True`` the distance of rows is measured in units
    of the root-mean-square distance to the mean row, so that it does not depend on how flat the
    rows are.
    """
    limit = weights_within
    if relative:
        limit = weights_within * (weights - weights.mean(dim=0)).norm(dim=-1).square().mean().sqrt()
    near = torch.cdist(weights, weights, compute_mode="donot_use_mm_for_euclid_dist") < limit
    apart = torch.cdist(query, query, compute_mode="donot_use_mm_for_euclid_dist") > queries_beyond
    return int((near & apart).triu(1).sum())


def distance_ratios(
    weights: Float[Tensor, "queries tokens"], query: Float[Tensor, "queries key"]
) -> Float[Tensor, " pairs"]:
    """Distance of rows divided by distance of queries, for every pair of queries, smallest first.

    If the smallest is zero, the map gives two different queries the same row. Pairs of equal
    queries are left out.
    """
    apart = torch.pdist(query)
    return (torch.pdist(weights)[apart > 0] / apart[apart > 0]).sort().values


def colliding_query(
    query: Float[Tensor, "*batch key"], *, feature_map: str, factor: float = FACTOR
) -> Float[Tensor, "*batch key"]:
    """Another query whose features are ``factor`` times those of ``query``.

    Normalised linear attention gives both the same row, whatever the keys. Available for
    ``identity``, ``relu``, ``elu_plus_one``, ``exp`` and ``softplus``.

    Raises:
        ValueError: for another feature map, or a factor that is not above 0 or is 1.

    >>> colliding_query(torch.tensor([1.0, -2.0]), feature_map="identity", factor=2.0)
    tensor([ 2., -4.])
    """
    if not factor > 0 or factor == 1:
        raise ValueError(f"colliding_query: 'factor' must be above 0 and not 1, but is {factor}.")
    if feature_map in ("identity", "relu"):
        return factor * query
    if feature_map == "elu_plus_one":
        scaled = factor * (torch.nn.functional.elu(query) + 1)
        # below zero the feature is e^q, whose logarithm needs no e^q, which underflows
        small = torch.where(query < 0, query + math.log(factor), scaled.log())
        return torch.where(scaled > 1, scaled - 1, small)
    if feature_map == "exp":
        return query + math.log(factor)
    if feature_map == "softplus":
        scaled = factor * torch.nn.functional.softplus(query)
        # log(e^x - 1) without e^x, which overflows; far below zero softplus(q) is e^q
        above = scaled + torch.log(-torch.expm1(-scaled))
        return torch.where(query < FAR_BELOW, query + math.log(factor), above)
    raise ValueError(
        f"colliding_query: no collision is known for '{feature_map}'; known are identity, relu, "
        f"elu_plus_one, exp and softplus."
    )
