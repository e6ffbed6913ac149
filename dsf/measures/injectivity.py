"""Whether different queries get different rows of weights (injectivity of attention)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dsf.evaluate.arguments import check_finite
from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import a_share, above_zero

Row = Callable[[Tensor], Tensor]
FACTOR = 2.5
SINGLE = 4  # bytes of a number for which torch has decompositions and distances
FAR_BELOW = -40.0  # 1 + e^q rounds to 1 in float64


class KeyRank(NamedTuple):
    """Rank and smallest singular value of keys with a column of ones."""

    rank: Int[Tensor, "*batch"]
    full: int
    margin: Float[Tensor, "*batch"]


@checked
def key_rank(key: Float[Tensor, "*batch tokens key"], *, tolerance: float = 1e-9) -> KeyRank:
    """Rank of [K, 1] and its smallest singular value.

    A softmax row over these keys is injective in its query exactly when the rank is d + 1. The
    numerical rank counts singular values above ``tolerance`` times the largest; for a certificate
    use ``dsf.certify.injective``.

    Source: InLine attention, arXiv:2412.06590, proposition on softmax; the condition is sharp.
    """
    a_share("key_rank", "tolerance", tolerance)
    key = _finite("key_rank", "key", key)
    ones = torch.ones_like(key[..., :1])
    values = torch.linalg.svdvals(torch.cat([key, ones], dim=-1))
    rank = (values > tolerance * values.amax(dim=-1, keepdim=True)).sum(dim=-1)
    full = key.shape[-1] + 1
    margin = values[..., -1] if key.shape[-2] >= full else torch.zeros_like(values[..., 0])
    return KeyRank(rank, full, margin)


@checked
def jacobian_rank(
    row: Row, query: Float[Tensor, "queries key"], *, tolerance: float = 1e-6
) -> Int[Tensor, " queries"]:
    """Rank of the Jacobian of ``query -> row of weights`` at each query, by automatic derivatives.

    If it is below the key width, some direction of the query does not change the weights. Singular
    values below ``tolerance`` times the largest count as zero; a constant row has rank 0.
    """
    a_share("jacobian_rank", "tolerance", tolerance)
    _finite("jacobian_rank", "query", query)

    def one_row(single: Tensor) -> Tensor:
        found = row(single)
        if not isinstance(found, Tensor) or found.ndim != 1:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise TypeError(
                f"jacobian_rank: 'row' must give a tensor with one axis, the weights of one query, "
                f"got {got}."
            )
        return found

    ranks = []
    for single in query:
        jacobian = torch.autograd.functional.jacobian(one_row, single)
        if not bool(jacobian.isfinite().all()):
            raise ValueError(
                "jacobian_rank: the derivatives of 'row' are NaN or infinite at a query, so they "
                "have no rank there. Use a function that is differentiable at every query."
            )
        jacobian = jacobian.float() if jacobian.dtype.itemsize < SINGLE else jacobian
        values = torch.linalg.svdvals(jacobian)
        ranks.append(((values > tolerance * values.max()) & (values > 0)).sum())
    return torch.stack(ranks)


@checked
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
    for name, given in (("weights_within", weights_within), ("queries_beyond", queries_beyond)):
        if not 0 <= given < math.inf:
            raise ValueError(
                f"confusions: '{name}' must be a distance, finite and at least 0, but it is "
                f"{given}."
            )
    weights = _finite("confusions", "weights", weights)
    query = _finite("confusions", "query", query)
    limit: float | Tensor = float(weights_within)
    if relative:
        limit = limit * (weights - weights.mean(dim=0)).norm(dim=-1).square().mean().sqrt()
    near = _distances(weights) < limit
    apart = _distances(query) > float(queries_beyond)
    return int((near & apart).triu(1).sum())


@checked
def distance_ratios(
    weights: Float[Tensor, "queries tokens"], query: Float[Tensor, "queries key"]
) -> Float[Tensor, " pairs"]:
    """Distance of rows divided by distance of queries, for every pair of queries, smallest first.

    If the smallest is zero, the map gives two different queries the same row. Pairs of equal
    queries are left out.
    """
    weights = _finite("distance_ratios", "weights", weights)
    query = _finite("distance_ratios", "query", query)
    apart = torch.pdist(query)
    if not bool(apart.isfinite().all()):
        raise ValueError(
            "distance_ratios: the distances of 'query' are too large for its number type. Divide "
            "the queries by their largest entry first."
        )
    return (torch.pdist(weights)[apart > 0] / apart[apart > 0]).sort().values


@checked
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
    factor = above_zero("colliding_query", "factor", factor)
    if factor == 1:
        raise ValueError(
            "colliding_query: 'factor' must not be 1, which gives the same query again."
        )
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
        f"colliding_query: no collision is known for 'feature_map' {feature_map!r}; known are "
        f"identity, relu, "
        f"elu_plus_one, exp and softplus."
    )


def _distances(rows: Tensor) -> Tensor:
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")


def _finite(owner: str, name: str, value: Tensor) -> Tensor:
    """``value`` in at least 32 bits."""
    check_finite(owner, name, value)
    return value.float() if value.dtype.itemsize < SINGLE else value
