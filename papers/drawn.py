"""Random numbers of the checks, drawn by NumPy with stated seeds, and what many of them measure."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import dsf


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(rng: np.random.Generator | int, *size: int) -> Tensor:
    """Return standard normal numbers in float64; a whole number is a seed."""
    return torch.from_numpy(np.random.default_rng(rng).standard_normal(size))


def uniform(rng: np.random.Generator, *size: int, low: float, high: float) -> Tensor:
    """Return evenly spread numbers between ``low`` and ``high`` in float64."""
    return torch.from_numpy(rng.uniform(low, high, size))


def causal_softmax(logits: Float[Tensor, "*heads time time"]) -> Float[Tensor, "*heads time time"]:
    """Return the softmax map of ``logits``: no row sees a later token."""
    hidden = torch.ones_like(logits, dtype=torch.bool).triu(1)
    return logits.masked_fill(hidden, -torch.inf).softmax(dim=-1)


def softmax_map(steps: int, *, scale: float = 3.0) -> Float[Tensor, "time time"]:
    """Return the causal softmax map of seed 0, its logits normal and stretched by ``scale``."""
    return causal_softmax(scale * normal(0, steps, steps))


def weights(mixer: dsf.mixers.Mixer) -> Tensor:
    """Return the attention map of a mixer."""
    return dsf.attention_map(mixer.system())


def output(mixer: dsf.mixers.Mixer) -> Tensor:
    """Return the response of a mixer to its own signal."""
    return dsf.respond(mixer.system(), mixer.signal())


def apart(one: Tensor, two: Tensor) -> float:
    """Return the largest difference of two entries."""
    return float((one - two).abs().max())


def hankel_rank(map: Tensor | dsf.System, *, tolerance: float = 1e-10) -> int:
    """Return the largest rank of a Hankel block: the states that the map needs."""
    return int(dsf.measures.hankel_ranks(map, tolerance=tolerance).max())
