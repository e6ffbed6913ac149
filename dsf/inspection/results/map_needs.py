"""How much memory the maps of inspected layers take, told before one is computed."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Protocol, runtime_checkable

import torch

from dsf.evaluate.memory_plan import GB, MapTooLarge, free_memory
from dsf.systems.composite import Operator

INSTEAD_OF_MAPS = (
    "Ask for some rows (rows=slice(0, 64)), for some heads or channels "
    "(dsf.inspect(..., heads=[0, 1]), on the command line --heads), or for what all of them do "
    "together (layer.contribution_norms(groups=256)); inspection.measure() and the report form no "
    "whole map."
)


@runtime_checkable
class HasSystem(Protocol):
    """A layer, as far as the size of its maps is concerned."""

    @property
    def name(self) -> str: ...
    @property
    def system(self) -> Operator: ...


def map_size(system: Operator) -> tuple[tuple[int, ...], torch.dtype, torch.device]:
    """Shape, number type and device of all maps of a system."""
    columns = getattr(system, "read_steps", system.steps) * system.input_size
    shape = (*system.batch, system.steps * system.output_size, columns)
    return shape, system.dtype, system.device


@dataclass(frozen=True)
class MapsForecast:
    """Bytes that the maps of some layers take.

    Attributes:
        by_layer: all maps of every layer, by its name.
        available: what this process may still take; None where that is not known.
    """

    by_layer: dict[str, int]
    available: int | None

    @property
    def total(self) -> int:
        """All maps of all layers, where every one is kept."""
        return sum(self.by_layer.values())

    @property
    def largest(self) -> int:
        """All maps of the layer that has the largest."""
        return max(self.by_layer.values(), default=0)

    @property
    def fits(self) -> bool:
        """Whether all maps can be kept, in at most half of what is available."""
        return self.available is None or 2 * self.total <= self.available

    def check(self, owner: str) -> None:
        """Raise where they cannot.

        Raises:
            MapTooLarge: with the sizes and what to do instead.
        """
        if self.fits:
            return
        there = self.available or 0
        singly = "" if 2 * self.largest > there else " Take one layer at a time (layer.map())."
        raise MapTooLarge(
            f"{owner}: all maps of {len(self.by_layer)} layers take {self.total / GB:.1f} GB, "
            f"those of one layer up to {self.largest / GB:.1f} GB, but {there / GB:.1f} GB are "
            f"available and half of that is the limit.{singly} {INSTEAD_OF_MAPS}"
        )


def maps_forecast(layers: Iterable[HasSystem], *, memory: float | None = None) -> MapsForecast:
    """How much all maps of some layers take, from the sizes of their systems.

    Args:
        layers: an inspection, or some of its layers.
        memory: the bytes to assume as available; by default what the process may still take.

    >>> import dsf, torch
    >>> found = dsf.inspect(torch.nn.LSTM(3, 4), torch.ones(6, 1, 3), exact=True)
    >>> dsf.inspection.maps_forecast(found).total  # 4 channels, 6 x 6 weights of 8 bytes
    1152
    """
    found, device = {}, torch.device("cpu")
    for layer in layers:
        shape, dtype, device = map_size(layer.system)
        found[layer.name] = prod(shape) * dtype.itemsize
    return MapsForecast(found, free_memory(device) if memory is None else int(memory))
