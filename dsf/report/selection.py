"""Selects the heads or channels of a layer that are drawn, and the size of their pictures.

``select`` takes all maps of a layer, or those of most energy. ``plan`` shares the size of the file
among all selected maps: how far they are pooled. What the page and the picture of one inspection
both need of a layer is computed once (``remembered``).
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from math import isqrt, prod
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dsf import measures
from dsf.evaluate import respond
from dsf.inspection import InspectedLayer
from dsf.systems.coefficient import Coefficient
from dsf.systems.composite import ExplicitMap, Operator, SystemSum

Found = TypeVar("Found")
_KNOWN: WeakKeyDictionary[InspectedLayer, dict[Hashable, object]] = WeakKeyDictionary()


def remembered(layer: InspectedLayer, what: Hashable, compute: Callable[[], Found]) -> Found:
    """What ``compute`` returned for this layer before, as long as the layer lives.

    Args:
        what: the name of the numbers; two computations of one name are the same.
    """
    known = _KNOWN.setdefault(layer, {})
    if what not in known:
        known[what] = compute()
    return known[what]  # type: ignore[return-value]


CHANNELS = 8
HEADS = 64
SAMPLES = 4


@dataclass(frozen=True, eq=False)
class Selection:
    """Some maps of one layer.

    Attributes:
        places: the index of each selected map on the batch axes of the layer's system.
        labels: a name for each, such as ``head 3``.
        samples: the sample that each belongs to.
        system: the operator of the selected maps alone, with one batch axis.
        total: how many maps the layer has.
        chosen: a sentence on how they were selected; empty if all are.
    """

    places: list[tuple[int, ...]]
    labels: list[str]
    samples: list[int]
    system: Operator
    total: int
    chosen: str


def select(layer: InspectedLayer, *, most: int | None = None) -> Selection:
    """All maps of a layer, or some: heads of the strongest response, channels that mix most.

    Args:
        most: the largest number of maps of one sample; by default 64 heads, 8 channels of a layer
            that was read as a whole, or 64 channels that were asked for.
    """
    batch = tuple(layer.system.batch)
    samples = batch[0] if _has_samples(layer) else 1
    of_one = prod(batch) // samples
    of_channels = has_channels(layer)
    most = most or (CHANNELS if of_channels and layer.heads is None else HEADS)
    chosen = ""
    order = np.arange(prod(batch)).reshape(samples, of_one)
    if of_one > most:
        found = (mixing if of_channels else energy)(layer)
        strength = found.reshape(samples, of_one).numpy(force=True)
        order = np.argsort(-strength, axis=1, kind="stable")[:, :most]
        order = order + of_one * np.arange(samples)[:, None]
        chosen = "those whose response has the largest energy, strongest first"
        if of_channels:
            chosen = "those with the most energy off the diagonal, strongest first"
    if samples > SAMPLES:
        order, chosen = order[:SAMPLES], "; ".join(filter(None, (chosen, "the first samples")))
    places = [tuple(int(k) for k in np.unravel_index(at, batch)) for at in order.ravel()]
    return Selection(
        places=places,
        samples=[place[0] if samples > 1 else 0 for place in places],
        labels=[_label(layer.axes, layer.place(place), samples) for place in places],
        system=part_of(layer.system, places) if batch else layer.system,
        total=prod(batch),
        chosen=chosen,
    )


def energy(layer: InspectedLayer) -> Float[Tensor, "*batch"]:
    """The sum of squares of the response to this run's values; infinite where that is NaN."""

    def summed() -> Tensor:
        return respond(layer.system, layer.signal).abs().square().sum(dim=(-3, -2, -1))

    return torch.nan_to_num(remembered(layer, "energy", summed), nan=float("inf"))


def mixing(layer: InspectedLayer) -> Float[Tensor, "*batch"]:
    """The energy of every map off its diagonal; infinite where that is NaN."""
    found = remembered(layer, "mixing", lambda: measures.off_diagonal_energy(layer.system))
    return torch.nan_to_num(found, nan=float("inf"))


def has_channels(layer: InspectedLayer) -> bool:
    """Whether every channel of the layer has a map of its own."""
    return "channel" in layer.axes and len(layer.system.batch) == len(layer.axes)


def part_of(operator: Operator, places: list[tuple[int, ...]]) -> Operator:
    """The operator of some entries of the batch axes, with one batch axis."""
    index = _index(places, operator.device)
    left = torch.Size([len(places)])
    if isinstance(operator, SystemSum):
        return SystemSum(tuple(_system(part, index, left) for part in operator))
    if isinstance(operator, ExplicitMap):
        return replace(operator, rows=operator.rows.picked(index, left))
    return _system(operator, index, left)


def _index(places: list[tuple[int, ...]], device: torch.device) -> tuple[Any, ...]:
    """The index of some places; of neighbours one that copies nothing."""
    *outer, first = places[0]
    if places == [(*outer, first + k) for k in range(len(places))]:
        return (*outer, slice(first, first + len(places)))
    return tuple(torch.tensor(axis, device=device) for axis in zip(*places, strict=True))


def _system(system: Any, index: tuple[Any, ...], left: torch.Size) -> Any:
    def taken(part: Any) -> Any:
        return part.picked(index, left) if isinstance(part, Coefficient) else part[index]

    return replace(
        system,
        A=system.A.picked(index, left),
        B=taken(system.B),
        C=taken(system.C),
        D=taken(system.feedthrough),
        initial=None,
    )


def _has_samples(layer: InspectedLayer) -> bool:
    return bool(layer.axes) and layer.axes[0] == "sample" and len(layer.system.batch) > 0


def _label(axes: tuple[str, ...], place: tuple[int, ...], samples: int) -> str:
    names = [*axes[: len(place)], *(f"axis {k}" for k in range(len(axes), len(place)))]
    shown = [
        f"{name} {k}"
        for name, k in zip(names, place, strict=True)
        if not (name == "sample" and samples == 1)
    ]
    return ", ".join(shown) or "map"


EXACT_CELLS = 2**20
VIEW_CELLS = 146 * 256**2
LARGEST_VIEW, SMALLEST_VIEW, STEP = 256, 48, 16


@dataclass(frozen=True)
class Plan:
    """The sizes of the pictures in the file.

    Attributes:
        side: the largest number of cells along each side of a pooled view.
        exact: whether views hold every weight as float32 as well as its 8-bit code.
    """

    side: int
    exact: bool


def plan(drawn: Sequence[Selection]) -> Plan:
    """Share the limits on the number of cells among the maps of all layers."""
    sizes = [_size(layer) for layer in drawn]
    cells = sum(len(layer.labels) * size**2 for layer, size in zip(drawn, sizes, strict=True))
    maps = sum(len(layer.labels) for layer in drawn)
    longest = max(sizes, default=1)
    if cells <= EXACT_CELLS and longest <= LARGEST_VIEW:
        return Plan(side=longest, exact=True)
    side = isqrt(VIEW_CELLS // max(maps, 1)) // STEP * STEP
    return Plan(side=min(max(side, SMALLEST_VIEW), LARGEST_VIEW), exact=False)


def _size(layer: Selection) -> int:
    return max(layer.system.steps, getattr(layer.system, "read_steps", 1))
