"""Random coefficients and random causal softmax maps, from NumPy's generator with a stated seed."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def normal(rng: np.random.Generator, *size: int) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.from_numpy(rng.standard_normal(size))


def causal_softmax(logits: Float[Tensor, "time time"]) -> Float[Tensor, "time time"]:
    """The softmax map of ``logits``: no row sees a later token."""
    hidden = torch.ones_like(logits).triu(1).bool()
    return logits.masked_fill(hidden, -torch.inf).softmax(dim=-1)


def softmax_map(steps: int, *, scale: float = 3.0) -> Float[Tensor, "time time"]:
    """The causal softmax map of seed 0, its logits normal and stretched by ``scale``."""
    return causal_softmax(scale * normal(np.random.default_rng(0), steps, steps))
