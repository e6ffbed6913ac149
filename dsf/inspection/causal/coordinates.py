"""``Coordinates``: from which place of the model's inputs every element of a tensor comes.

Every axis of every input is an ``InputAxis``. A tensor of the run has, for each of them, the index
along that axis that each element belongs to. Scores of attention belong to two: that of their
query, and in ``columns`` that of their key.

``Remembered``: what followed from coordinates before, so that equal layers are followed once.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Size, Tensor

IMAGE_AXES = 3
"""Least axes of bytes that are an image; of wider whole numbers, which may be ids, one more."""
NONE, MANY = -1.0, -2.0
"""An element that comes from no index of an axis, and one that is made of several."""


@dataclass(eq=False)
class Source:
    """An input of the model, or a tensor whose positions a module made anew.

    Attributes:
        name: of the argument, or of the module.
        channels: the axis of its channels, which projections sum over; None until one has.
        summed: how often projections summed over each of its axes.
        normed: the axes that norms and convolutions took for that of channels.
        rank: how many axes it has.
        before: the axes that the positions were made from.
        kind: ``input``; ``ids`` for integers that are not an image, which have no channels; or
            what the new positions are.
        is_embedded: whether numbers of it chose rows of an embedding.
        slots: axes of slots that were made of axes of it, by what, where and how many they are.
    """

    name: str
    channels: "InputAxis | None" = None
    summed: dict["InputAxis", int] = field(default_factory=dict)
    normed: set["InputAxis"] = field(default_factory=set)
    rank: int = 0
    before: frozenset["InputAxis"] = frozenset()
    kind: str = "input"
    is_embedded: bool = False
    slots: dict[Hashable, "InputAxis"] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class InputAxis:
    """One axis of a source."""

    source: Source
    number: int
    size: int


Planes = dict[InputAxis, Tensor]
Move = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Coordinates:
    """The index along every axis that each element of a tensor belongs to.

    Attributes:
        shape: of the tensor; every plane has it, with stride 0 where its numbers do not change.
        planes: by axis the index, ``NONE`` or ``MANY``.
        columns: for scores, by axis the index of the key.
    """

    shape: Size
    planes: Planes
    columns: Planes = field(default_factory=dict)

    @property
    def positions(self) -> list[InputAxis]:
        """Its axes that count places, such as tokens and samples, and not channels."""
        return [axis for axis in self.planes if axis.source.channels is not axis]

    def moved(self, move: Move, shape: Size) -> "Coordinates":
        """Those of a tensor that ``move`` makes by moving elements."""
        planes = {axis: move(plane) for axis, plane in self.planes.items()}
        columns = {axis: move(plane) for axis, plane in self.columns.items()}
        return Coordinates(shape, planes, columns)

    def expanded(self, shape: Size) -> "Coordinates":
        """Those of a tensor of a larger shape to which this one is broadcast."""
        return self if self.shape == shape else self.moved(lambda p: p.expand(shape), shape)

    def equals(self, other: "Coordinates") -> bool:
        """Whether another one says the same of a tensor of the same shape."""
        if self.shape != other.shape:
            return False
        return _equal(self.planes, other.planes) and _equal(self.columns, other.columns)

    def without(self, axis: InputAxis) -> "Coordinates":
        """The same without one axis."""
        planes = {each: plane for each, plane in self.planes.items() if each is not axis}
        columns = {each: plane for each, plane in self.columns.items() if each is not axis}
        return Coordinates(self.shape, planes, columns)


def _equal(one: Planes, other: Planes) -> bool:
    if [*one] != [*other]:
        return False
    pairs = ((small(one[axis]), small(other[axis])) for axis in one)
    return all(
        first.shape == second.shape and torch.equal(first, second) for first, second in pairs
    )


def numbered(tensor: Tensor, name: str) -> Coordinates:
    """The coordinates of an input."""
    if tensor.is_floating_point() or tensor.is_complex():
        kind = "input" if tensor.ndim > 1 else "ids"
    else:
        fewest = IMAGE_AXES if tensor.dtype is torch.uint8 else IMAGE_AXES + 1
        kind = "input" if tensor.ndim >= fewest else "ids"
    source, shape, planes = Source(name, kind=kind, rank=tensor.ndim), tensor.shape, {}
    for number, size in enumerate(shape):
        index = torch.arange(size, dtype=torch.float32, device=tensor.device)
        spread = index.reshape(-1, *[1] * (len(shape) - number - 1)).expand(shape)
        planes[InputAxis(source, number, size)] = spread
    return Coordinates(shape, planes)


def small(plane: Tensor) -> Tensor:
    """The plane with size 1 along the axes on which its numbers do not change."""
    for axis, (size, stride) in enumerate(zip(plane.shape, plane.stride(), strict=True)):
        if stride == 0 and size > 1:
            plane = plane.narrow(axis, 0, 1)
    return plane


def reduced(plane: Tensor, dims: Sequence[int]) -> tuple[Tensor, bool]:
    """The one index along ``dims``, which keep size 1, or ``MANY``; and whether there are several.

    ``NONE`` counts for nothing.
    """
    short = small(plane)
    dims = [dim for dim in dims if short.shape[dim] > 1]
    if not dims:
        return short, False
    largest = short.amax(dim=dims, keepdim=True)
    least = torch.where(short < 0, torch.inf, short).amin(dim=dims, keepdim=True)
    several = (largest >= 0) & (least != largest)
    found = torch.where(several, MANY, largest)
    lowest = short.amin(dim=dims, keepdim=True)
    found = torch.where((largest < 0) & (lowest == MANY), MANY, found)
    return found, bool(several.any())


def varies(plane: Tensor | None, dim: int) -> bool:
    """Whether a plane has several indices along ``dim``."""
    return plane is not None and reduced(plane, [dim])[1]


IN_ORDER = 2
"""The rank of a plane whose indices never fall; of one whose indices never rise it is 1."""


def _order(plane: Tensor) -> int:
    """How well a plane numbers a sequence: negative with gaps, more if it is in order."""
    short = small(plane)
    steps = [short.diff(dim=k) for k in range(short.ndim) if short.shape[k] > 1]
    gaps = -IN_ORDER if bool((short < 0).any()) else 0
    if all(bool((step >= 0).all()) for step in steps):
        return IN_ORDER + gaps
    return (1 if all(bool((step <= 0).all()) for step in steps) else 0) + gaps


@dataclass(frozen=True)
class Merged:
    """Two planes of one axis combined.

    Attributes:
        plane: the result.
        meet: whether several indices meet in it.
        spread: whether an index meets what is made of many.
        weighed: whether a score meets its key, which is another token than its query.
    """

    plane: Tensor
    meet: bool
    spread: bool
    weighed: bool = False


def merged(one: Tensor, other: Tensor, columns: Tensor | None = None) -> Merged:
    """Two planes of tensors that are added or multiplied element by element.

    Args:
        columns: where one of them holds scores, the indices of their keys; an index that equals
            that of the key does not conflict.
    """
    one, other = small(one), small(other)
    if torch.equal(one, other):  # as most are
        return Merged(one, meet=False, spread=False)
    both, weighed = (one >= 0) & (other >= 0) & (one != other), False
    if columns is not None:
        keys = both & ((small(columns) == other) | (small(columns) == one))
        both, weighed = both & ~keys, bool(keys.any())
    partly = ((one >= 0) & (other == MANY)) | ((one == MANY) & (other >= 0))
    # Of two tokens that one stays whose sequence is complete and in order; a look into the past
    # keeps the later one, which is the token itself. One token that is sent to all is none of them.
    plane = torch.maximum(one, other)
    if both.any() and (one.numel() == 1) != (other.numel() == 1):
        first, second = (other, one) if one.numel() == 1 else (one, other)
        plane = torch.where(first >= 0, first, second).expand_as(plane)
    elif both.any():
        first, second = (one, other) if _order(one) >= _order(other) else (other, one)
        if _order(first) != _order(second) or _order(first) < IN_ORDER:
            plane = torch.where(first >= 0, first, second).expand_as(plane)
    plane = torch.where((one < 0) & (other < 0), torch.minimum(one, other), plane)
    return Merged(plane, bool(both.any()), bool(partly.any()), weighed)


MOST_BYTES = 2**25
MOST_ENTRIES = 4096


class Remembered:
    """Results by what they follow from; all are forgotten when they hold too much memory."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Any] = {}
        self._memory: set[int] = set()
        self._bytes = 0

    def of(self, key: Hashable) -> Any:
        """What followed before; None if nothing did."""
        return self._found.get(key)

    def add(self, key: Hashable, result: Any, held: Iterable[Coordinates | None]) -> None:
        """Remember ``result``, which keeps some coordinates in memory."""
        if self._bytes > MOST_BYTES or len(self._found) >= MOST_ENTRIES:
            self._found.clear()
            self._memory.clear()
            self._bytes = 0
        for one in held:
            for plane in () if one is None else (*one.planes.values(), *one.columns.values()):
                storage = plane.untyped_storage()
                if storage._cdata not in self._memory:
                    self._memory.add(storage._cdata)
                    self._bytes += storage.nbytes()
        self._found[key] = result
