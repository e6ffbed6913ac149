"""Rows of weights of any number of queries over the same keys, by the library's mixers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.evaluate import attention_map
from dsf.mixers import InLineAttention, LinearAttention, SoftmaxAttention
from dsf.mixers.ingredients.feature_maps import FeatureMap, identity

TOKENS, WIDTH = 40, 8


def drawn(
    queries: int, *, tokens: int = TOKENS, width: int = WIDTH
) -> tuple[Float[Tensor, "queries key"], Float[Tensor, "tokens key"]]:
    """Standard normal queries and keys in float64, the keys drawn first, always the same."""
    rng = np.random.default_rng(0)
    key, query = rng.standard_normal((tokens, width)), rng.standard_normal((queries, width))
    return torch.tensor(query), torch.tensor(key)


def softmax_rows(
    query: Float[Tensor, "queries key"], key: Float[Tensor, "tokens key"], *, scale: float = 1.0
) -> Float[Tensor, "queries tokens"]:
    """Softmax weights, ``scale`` on every score."""
    value = torch.ones_like(key[:, :1])
    mixer = SoftmaxAttention(query=query, key=key, value=value, scale=scale, causal=False)
    return attention_map(mixer.system())


def linear_rows(
    query: Float[Tensor, "queries key"],
    key: Float[Tensor, "tokens key"],
    *,
    feature_map: FeatureMap,
) -> Float[Tensor, "queries tokens"]:
    """Weights of normalised linear attention."""
    return _rows(LinearAttention, feature_map(query), feature_map(key))


def in_line_rows(
    query: Float[Tensor, "queries key"],
    key: Float[Tensor, "tokens key"],
    *,
    feature_map: FeatureMap = identity,
    scale: float = 1.0,
) -> Float[Tensor, "queries tokens"]:
    """InLine weights, ``scale`` on every product of features."""
    return _rows(InLineAttention, scale * feature_map(query), feature_map(key))


def _rows(mixer: Callable[..., Any], query: Tensor, key: Tensor) -> Tensor:
    """Queries in stacks of as many as there are keys, the last one repeated to fill up."""
    tokens = len(key)
    stacks = -(-len(query) // tokens)
    filling = query[-1:].expand(stacks * tokens - len(query), -1)
    keys = key.expand(stacks, *key.shape)
    built = mixer(
        query=torch.cat([query, filling]).unflatten(0, (stacks, tokens)),
        key=keys,
        value=torch.ones_like(keys[..., :1]),
        feature_map=identity,
        causal=False,
    )
    return attention_map(built.system()).flatten(0, 1)[: len(query)]
