"""What n states make of softmax maps: the best system, the exponential series, random features.

Every error is that of the map, in Frobenius norm relative to the exact one, one number a head.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.evaluate import attention_map
from dsf.evaluate.realisation import reduce
from dsf.measures import hankel_singular_values, map_distance
from dsf.mixers import LinearAttention, SoftmaxAttention
from dsf.mixers.ingredients import random_features

Errors = Float[Tensor, "states head"]


def least_errors(map: Float[Tensor, "head time time"], states: Iterable[int]) -> Errors:
    """What no system of n states falls below.

    After a token its block ``map[t+1:, :t+1]`` has rank n at most, so the singular values beyond
    are missed; the worst token counts.
    """
    squares = hankel_singular_values(map).square().flip(-1).cumsum(dim=-1).flip(-1)
    beyond = torch.nn.functional.pad(squares, (0, 1))
    size = torch.linalg.matrix_norm(map)
    return torch.stack([beyond[..., n].amax(dim=-1).sqrt() / size for n in states])


def reduced_errors(map: Float[Tensor, "head time time"], states: Iterable[int]) -> Errors:
    """Those of the system that ``dsf.evaluate.reduce`` finds."""
    return torch.stack([_relative(map, n) for n in states])


def _relative(map: Tensor, states: int) -> Tensor:
    reduction = reduce(map, order=states)
    return reduction.error / reduction.size


def series_errors(heads: SoftmaxAttention, orders: Iterable[int]) -> Errors:
    """Those of the exponential series up to each order.

    Summed over scores: as a system order p has ``C(key + p, p)`` states, too many to build for wide
    keys. At odd orders a row can have a sum near zero and its weights any size.
    """
    exact = attention_map(heads.system())
    return torch.stack([map_distance(exact, series_map(heads, order)) for order in orders])


def series_map(heads: SoftmaxAttention, order: int) -> Float[Tensor, "head time time"]:
    """The map whose numerators are the exponential series of the scores up to ``order``."""
    scores = _scale(heads) * (heads.query @ heads.key.mT)
    numerators = term = torch.ones_like(scores)
    for power in range(1, order + 1):
        term = term * scores / power
        numerators = numerators + term
    numerators = numerators.tril()
    return numerators / numerators.sum(dim=-1, keepdim=True)


def random_feature_errors(
    heads: SoftmaxAttention, widths: Iterable[int], *, draws: int, seed: int = 0
) -> Errors:
    """Those of positive random features, the median over draws of their directions."""
    exact = attention_map(heads.system())
    rng = torch.Generator().manual_seed(seed)
    root = _scale(heads) ** 0.5
    found = []
    for width in widths:
        tried = []
        for _ in range(draws):
            features = random_features(rng, key_size=heads.key.shape[-1], width=width)
            near = LinearAttention(
                query=root * heads.query,
                key=root * heads.key,
                value=heads.value,
                feature_map=features,
            )
            tried.append(map_distance(exact, attention_map(near.system())))
        found.append(torch.stack(tried).median(dim=0).values)
    return torch.stack(found)


def _scale(heads: SoftmaxAttention) -> float:
    return heads.query.shape[-1] ** -0.5 if heads.scale is None else heads.scale
