"""Layers for the laws: how each is built, and what its papers say of it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from dsf.layers import Layer

MODEL = 8


@dataclass(frozen=True, kw_only=True)
class Case:
    """One layer as the laws see it.

    ``literal(weights, x)`` is the whole layer written out. Of the ``parameters``, ``idle`` numbers
    change nothing.
    """

    build: Callable[[], Layer]
    literal: Callable
    parameters: int
    idle: int = 0
    steps: int = 6

    def drawn(self, seed=0):
        """The layer in float64, no parameter near its initial value."""
        rng = torch.Generator().manual_seed(seed)
        layer = self.build().double()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(0.6 * torch.randn(parameter.shape, generator=rng).double())
        return layer

    def tokens(self, seed=1):
        rng = torch.Generator().manual_seed(seed)
        return torch.randn(2, self.steps, MODEL, generator=rng).double()
