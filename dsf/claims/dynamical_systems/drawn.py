"""Random numbers of the checks, drawn by NumPy in a fixed order: figures are reproducible."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class Tokens(NamedTuple):
    """One head on one sequence."""

    query: Float[Tensor, "time key"]
    key: Float[Tensor, "time key"]
    value: Float[Tensor, "time channel"]


def normal(rng: np.random.Generator, *size: int) -> Float[Tensor, "..."]:
    """Standard normal numbers in float64."""
    return torch.from_numpy(rng.standard_normal(size))


def uniform(rng: np.random.Generator, *size: int, low: float, high: float) -> Float[Tensor, "..."]:
    """Evenly spread numbers between ``low`` and ``high`` in float64."""
    return torch.from_numpy(rng.uniform(low, high, size))


def projected_tokens() -> Tokens:
    """Twenty tokens of width 6 and their projections, queries and keys of width 4."""
    rng = np.random.default_rng(1)
    u = normal(rng, 20, 6)
    to_query, to_key = 0.5 * normal(rng, 2, 4, 6)
    return Tokens(u @ to_query.T, u @ to_key.T, u @ normal(rng, 6, 6).T)
