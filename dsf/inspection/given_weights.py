"""A mixer given by its weights alone, where it is not known how they came about."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.composite import ExplicitMap, StoredRows
from dsf.mixers.base import Mixer


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GivenWeights(Mixer):
    """Values summed with the weights that a module was seen to multiply them with.

    Attributes:
        weights: row t is what token t is made of.
    """

    weights: Float[Tensor, "*batch time read"]
    value: Float[Tensor, "*batch read channel"]

    source: ClassVar[str] = "the module's own run"

    def system(self) -> ExplicitMap:
        return ExplicitMap(StoredRows(self.weights))

    def signal(self) -> Shaped[Tensor, "*batch read 1 channel"]:
        return self.value.unsqueeze(-2)

    @classmethod
    def draw(cls, rng: torch.Generator, *, steps: int) -> "GivenWeights":
        weights = torch.randn(2, steps, steps, generator=rng, dtype=torch.float64).tril()
        value = torch.randn(2, steps, 3, generator=rng, dtype=torch.float64)
        return cls(weights=weights, value=value)
