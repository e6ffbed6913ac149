"""A mixer that is known by the numbers of its map alone."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.composite import ExplicitMap, StoredRows
from dsf.mixers import Mixer


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StoredMap(Mixer):
    """Rows of a map as they are, and the values it was applied to.

    Attributes:
        axes: what the batch axes count.
        label: what is known of the map, in words.
    """

    weights: Float[Tensor, "*batch time read"]
    value: Float[Tensor, "*batch read channel"]
    axes: tuple[str, ...] = ("sample", "head")
    label: str = ""

    def system(self) -> ExplicitMap:
        return ExplicitMap(StoredRows(self.weights))

    def signal(self) -> Shaped[Tensor, "*batch read 1 channel"]:
        return self.value.unsqueeze(-2)

    @classmethod
    def draw(cls, rng: torch.Generator, *, steps: int) -> "StoredMap":
        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=rng, dtype=torch.float64)

        return cls(weights=normal(2, steps, steps), value=normal(2, steps, 3))
