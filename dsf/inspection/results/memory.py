"""Forecast of the memory of the maps of inspected layers, before one is computed.

``Forecast``: the memory that an inspection will take, its parts and whether it fits.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Protocol, runtime_checkable

import torch

from dsf.evaluate.memory_plan import GB, MapTooLarge, free_memory
from dsf.inspection.errors import InspectionMemoryError
from dsf.runtime.threads import MOST
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


SPARE = 2**28  # for the allocator and for what is not counted
FRACTION = 0.95


@dataclass(frozen=True)
class Forecast:
    """Bytes that an inspection takes at its peaks, beyond the model itself.

    Attributes:
        tokens: of all samples together.
        layers: how many token mixers are looked at.
        run: the model's forward pass.
        recorded: what all mixers received and returned.
        in_float64: the run of the largest mixer in float64, one at a time.
        rebuilt: the largest layer while it is rebuilt and compared.
        kept: what all rebuilt layers keep.
        available: what this process may still take; None where that is not known.
        samples: how many the tokens belong to.
        largest_maps, all_maps: all maps of the layer with the most, and of all layers, where they
            are asked for; no part of the peak. Counted from the heads or channels that modules
            name, so an estimate as well.
    """

    tokens: int
    layers: int
    run: int
    recorded: int
    in_float64: int
    rebuilt: int
    kept: int
    available: int | None
    samples: int = 1
    largest_maps: int = 0
    all_maps: int = 0

    @property
    def peak(self) -> int:
        """The peak with everything in memory."""
        one = max(self.in_float64, self.rebuilt)
        return max(self.run + self.recorded, self.recorded + self.kept + one) + SPARE

    @property
    def peak_on_disk(self) -> int:
        """The peak where recorded calls and rebuilt layers lie on disk, but for one at a time."""
        layers = max(self.layers, 1)
        recorded, kept = 2 * self.recorded // layers, 2 * self.kept // layers
        one = max(self.in_float64, self.rebuilt) + recorded + kept
        return max(self.run + recorded, one) + SPARE

    @property
    def at_a_time(self) -> int:
        """How many layers are rebuilt side by side, on several threads: as many as there is room.

        The peak is that of one.
        """
        if self.available is None:
            return MOST
        if self.uses_disk:
            return 1
        one = max(self.in_float64, self.rebuilt, 1)
        room = FRACTION * self.available - SPARE - self.recorded - self.kept
        return min(max(int(room // one), 1), MOST)

    @property
    def uses_disk(self) -> bool:
        """Whether recorded calls and layers are put on disk."""
        return self.available is not None and self.peak > FRACTION * self.available

    @property
    def fits(self) -> bool:
        """Whether the inspection can be done, be it with the help of the disk."""
        return self.available is None or self.peak_on_disk <= self.available

    @property
    def longest(self) -> int:
        """How many tokens would fit, about: all parts grow in proportion to them."""
        if self.available is None:
            return self.tokens
        room = max(self.available - SPARE, 0)
        return int(self.tokens * room / max(self.peak_on_disk - SPARE, 1))

    def check(self, owner: str) -> None:
        """Raise where it does not fit.

        Raises:
            InspectionMemoryError: with the parts, what there is, and how many tokens would fit.
        """
        if self.fits:
            return
        fewer = (
            f"Give at most about {self.longest} tokens, or more" if self.longest else "Give more"
        )
        raise InspectionMemoryError(
            f"{owner}: inspecting {self.layers} layers on {self.tokens} tokens takes "
            f"{_gb(self.peak_on_disk)} at its peak, also where what is kept goes to disk, but "
            f"{_gb(self.available or 0)} are available. The model's own run takes "
            f"{_gb(self.run)}, one layer in float64 {_gb(self.in_float64)}, rebuilding it "
            f"{_gb(self.rebuilt)}. {fewer} memory (memory=..., "
            "on the command line --memory, is the limit that is assumed); fewer "
            "layers or heads take as much, since they are worked on one at a time."
        )

    def worded(self) -> str:
        """Return one line for a person, without parts that round to nothing."""
        there = "" if self.available is None else f" of {_gb(self.available)}"
        peak = self.peak_on_disk if self.uses_disk else self.peak
        where = "on disk" if self.uses_disk else "in memory"
        parts = {
            "the model's run": self.run,
            "one layer in float64": self.in_float64,
            f"recorded {where}": self.recorded,
            f"kept {where}": self.kept,
        }
        shown = ", ".join(f"{name} {_gb(size)}" for name, size in parts.items() if _is_shown(size))
        maps = (
            f"; all maps would take {_gb(self.all_maps)}, up to {_gb(self.largest_maps)} a layer"
            if _is_shown(self.all_maps)
            else ""
        )
        return f"memory: about {_gb(peak)}{there} at the peak{f' ({shown})' if shown else ''}{maps}"

    def facts(self) -> dict[str, Any]:
        """The same as JSON, in bytes."""
        return {
            **asdict(self),
            "peak": self.peak,
            "peak_on_disk": self.peak_on_disk,
            "uses_disk": self.uses_disk,
        }


def _is_shown(size: int) -> bool:
    return _gb(size) != _gb(0)


def _gb(numbers: int) -> str:
    return f"{numbers / GB:.1f} GB"
