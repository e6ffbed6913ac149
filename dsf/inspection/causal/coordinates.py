"""``Coordinates``: from which place of the model's inputs every element of a tensor comes.

Every axis of every input is an ``InputAxis``. A tensor of the run has, for each of them, the index
along that axis that each element belongs to. Scores of attention belong to two: that of their
query, and in ``columns`` that of their key.

``KnownTensors``: the coordinates of the tensors of a run, by the memory that they are views of.
"""

import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Size, Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from dsf.inspection.capture.containers import are_numbers, memory_key, memory_of
from dsf.inspection.capture.modes import unheard

IMAGE_AXES = 3
"""Least axes of bytes that are an image; of wider whole numbers, which may be ids, one more."""
SEQUENCE = 3
"""The axes of samples, tokens and channels."""
NONE, MANY = -1.0, -2.0
"""An element that comes from no index of an axis, and one that is made of several."""


@dataclass(eq=False)
class Source:
    """An input of the model, or a tensor whose positions a module made anew.

    Attributes:
        channels: the axis of its channels, which projections sum over; None until one has.
        summed: the axes that weights sum over, in the order in which they did.
        normed: the axes that norms and convolutions took for that of channels.
        places: the axes that are none of channels, as no weights had summed over them when single
            numbers along them got features, or when an attention or a recurrence mixed along them.
        transformed: by axis the tokens that were given to Fourier transforms of another length, in
            the order in which they lay.
        before: the axes that the positions were made from.
        is_known: whether it is known of which tokens along these each position is made.
        kind: ``input``; ``ids`` for integers that are not an image, nor features that weights sum
            over, which have no channels; or what the new positions are.
        coarser: by axis the new positions of which it is known what they were made of along it.
        tables: by axis the tables that single places along it alone were looked up in, or the
            weights that made features of single numbers along it, and these places.
        size: how many elements of an input each of its samples has.
    """

    name: str
    channels: "InputAxis | None" = None
    summed: dict["InputAxis", None] = field(default_factory=dict)
    normed: dict["InputAxis", None] = field(default_factory=dict)
    places: set["InputAxis"] = field(default_factory=set)
    transformed: dict["InputAxis", list[Tensor]] = field(default_factory=dict)
    rank: int = 0
    size: int = 0
    before: frozenset["InputAxis"] = frozenset()
    is_known: bool = True
    kind: str = "input"
    is_embedded: bool = False
    tables: dict["InputAxis", dict[Hashable, set[int]]] = field(default_factory=dict)
    slots: dict[Hashable, "InputAxis"] = field(default_factory=dict)
    coarser: dict["InputAxis", list["InputAxis"]] = field(default_factory=dict)

    @property
    def is_undecided(self) -> bool:
        """Whether nothing shows which axis of a sequence holds channels."""
        return self.kind == "input" and self.rank == SEQUENCE and self.channels is None

    def has_fields(self, axis: "InputAxis") -> bool:
        """Whether every place along an axis is looked up in a table of its own, as features are."""
        tables = self.tables.get(axis, {}).values()
        return len(set().union(*tables)) > 1 and all(len(places) == 1 for places in tables)

    def is_line(self, axis: "InputAxis") -> bool:
        """Whether an input has numbers along one axis alone, for every sample."""
        return self.kind == "input" and axis.number > 0 and axis.size == self.size


@dataclass(frozen=True, eq=False)
class InputAxis:
    """One axis of a source.

    Attributes:
        windows: of new positions, by axis the first and the last place along it that each is made
            of, and all in between; empty where that is not known.
    """

    source: Source
    number: int
    size: int
    windows: dict["InputAxis", tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for axis in self.windows:
            axis.source.coarser.setdefault(axis, []).append(self)

    def index_in(self, cell: Mapping["InputAxis", int | Tensor]) -> int | Tensor | None:
        """The place of a cell, or the positions that are made of any of its places, if known."""
        if self in cell:
            return cell[self]
        found = None
        for axis, (first, last) in self.windows.items():
            if (index := axis.index_in(cell)) is None:
                return None
            places = torch.as_tensor(index).reshape(-1).to(first).sort().values
            following = places[torch.searchsorted(places, first).clamp(max=len(places) - 1)]
            inside = (first <= following) & (following <= last)
            found = inside if found is None else found & inside
        return None if found is None else found.nonzero().flatten()


def is_place(axis: InputAxis) -> bool:
    """Whether an axis counts places, such as tokens and samples, and not channels."""
    return axis.source.channels is not axis


def counts_samples(axis: InputAxis) -> bool:
    """Whether an axis is the first of a source that has further places besides channels."""
    return axis.number == 0 and axis.source.rank != 1 + (axis.source.kind == "input")


def all_before(axis: InputAxis) -> set[InputAxis]:
    """The axes that the positions along an axis were made from, directly or through others."""
    found: set[InputAxis] = set()
    waiting = list(axis.source.before)
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += one.source.before
    return found


Planes = dict[InputAxis, Tensor]
Move = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Coordinates:
    """The index along every axis that each element of a tensor belongs to.

    Attributes:
        planes: by axis the index, ``NONE`` or ``MANY``.
        columns: for scores, by axis the index of the key.
        met: the axes along which a token met others, as in the state of a loop: its index is that
            of one of them.
    """

    shape: Size
    planes: Planes
    columns: Planes = field(default_factory=dict)
    met: frozenset[InputAxis] = frozenset()

    @property
    def positions(self) -> list[InputAxis]:
        return list(filter(is_place, self.planes))

    @property
    def is_map(self) -> bool:
        """Whether the key changes along an axis on which no query does."""
        return any(
            any(varies(plane, k) for plane in self.columns.values())
            and not any(varies(plane, k) for plane in self.planes.values())
            for k in range(len(self.shape))
        )

    def moved(self, move: Move, shape: Size) -> "Coordinates":
        """Those of a tensor that ``move`` makes by moving elements."""
        planes = {axis: move(plane) for axis, plane in self.planes.items()}
        columns = {axis: move(plane) for axis, plane in self.columns.items()}
        return Coordinates(shape, planes, columns, self.met)

    def expanded(self, shape: Size) -> "Coordinates":
        """Those of a tensor of a larger shape to which this one is broadcast."""
        return self if self.shape == shape else self.moved(lambda p: p.expand(shape), shape)

    def equals(self, other: "Coordinates") -> bool:
        pairs = (self.planes, other.planes), (self.columns, other.columns)
        return (
            self.shape == other.shape
            and self.met == other.met
            and all(
                [*mine] == [*theirs]
                and all(torch.equal(small(mine[axis]), small(theirs[axis])) for axis in mine)
                for mine, theirs in pairs
            )
        )


def numbered(tensor: Tensor, name: str) -> Coordinates:
    if are_numbers(tensor):
        fewest = 2
    else:
        fewest = IMAGE_AXES if tensor.dtype is torch.uint8 else IMAGE_AXES + 1
    kind, shape = "input" if tensor.ndim >= fewest else "ids", tensor.shape
    source = Source(name, kind=kind, rank=tensor.ndim, size=shape[1:].numel())
    planes = {
        InputAxis(source, number, size): counted(shape, number, tensor.device)
        for number, size in enumerate(shape)
    }
    return Coordinates(shape, planes)


def counted(shape: Size, dim: int, device: torch.device | None = None) -> Tensor:
    """The index along one axis of a tensor."""
    index = torch.arange(shape[dim], dtype=torch.float32, device=device)
    return index.reshape(-1, *[1] * (-1 - dim % len(shape) + len(shape))).expand(shape)


def small(plane: Tensor) -> Tensor:
    """The plane with size 1 along the axes on which its numbers do not change."""
    for axis, (size, stride) in enumerate(zip(plane.shape, plane.stride(), strict=True)):
        if stride == 0 and size > 1:
            plane = plane.narrow(axis, 0, 1)
    return plane


def token_numbers(lines: Mapping[InputAxis, Tensor]) -> Tensor | None:
    """The number of every token over its indices along some axes, -1 where one is missing.

    Axes of a further input count only where they tell tokens apart, as those of pairs of tokens do:
    the types of tokens, or their positions, say nothing new. None without axes.
    """
    number: Tensor | None = None
    finest_first = sorted(lines, key=lambda axis: len(all_before(axis)))
    sources = [*dict.fromkeys(axis.source for axis in finest_first)]
    for axis in sorted(lines, key=lambda axis: (sources.index(axis.source), axis.number)):
        line = lines[axis]
        if number is None:
            number = line
        elif axis.source is sources[0] or _are_told_apart(number, line):
            number = torch.where((line < 0) | (number < 0), NONE, number * axis.size + line)
    return number


def _are_told_apart(number: Tensor, line: Tensor) -> bool:
    """Whether there are tokens of one number with several places along a further axis."""
    if torch.equal(number, line):
        return False
    both = (number >= 0) & (line >= 0)
    pairs = torch.stack([number[both], line[both]])
    return pairs.unique(dim=1).shape[1] > number[both].unique().numel()


def telling(planes: Planes, axes: Sequence[InputAxis]) -> list[InputAxis]:
    """The axes that tell tokens apart, without those that say nothing that the others do not.

    Such are groups beside the tokens that they were added to: an element that is of no token of
    such an axis has one along the others, and these tell apart whatever the axis does.
    """
    if not any(bool((small(planes[axis]) == NONE).any()) for axis in axes):
        return [*axes]
    lines = dict(zip(axes, torch.broadcast_tensors(*(small(planes[a]) for a in axes)), strict=True))
    for line in lines.values():
        missing = line == NONE
        others = {a: other for a, other in lines.items() if not torch.equal(other == NONE, missing)}
        number = token_numbers(others)
        if number is None:
            continue
        there = torch.stack([*others.values()]).ge(0).all(dim=0)
        told = [one for axis, one in lines.items() if axis not in others]
        are_channels = bool((there & missing).any() and (there | missing).all())
        is_of_several = any(bool((one > 0).any()) for one in told)
        if are_channels and is_of_several and not any(_are_told_apart(number, one) for one in told):
            return telling(planes, [*others])
    return [*axes]


def reduced(plane: Tensor, dims: Sequence[int]) -> tuple[Tensor, bool]:
    """The one index along ``dims``, which keep size 1, or ``MANY``; whether there are several."""
    # NONE counts for nothing.
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


def is_sent(planes: Planes, axis: InputAxis) -> bool:
    """Whether one token out of several along an axis, or all, reach several of other inputs.

    Their first axes count samples, which may share a token, unless they have no further places.
    """
    one = small(planes[axis])
    if axis.size == 1 or not is_place(axis) or not one.numel():
        return False
    if float(one.amax()) == NONE or bool((one != one.amax()).any()):
        return False
    own, others = list[Tensor](), list[Tensor]()
    # Of all tokens is also said to be what else a module returns, such as a constant.
    is_many = bool((one == MANY).any())
    for each, plane in planes.items():
        if each is axis:
            continue
        before = all_before(each)
        if (is_many and before) or axis.source in {x.source for x in (each, *before)}:
            own.append(small(plane))
        elif is_place(each) and not counts_samples(each):
            others.append(small(plane))
    if not any(plane.numel() > 1 for plane in others):
        return False
    # Places that share all indices of its own input have different ones of another.
    lines = torch.stack(torch.broadcast_tensors(one, *own, *others)).flatten(1)
    mine = lines[: 1 + len(own)].unique(dim=1)
    return lines.unique(dim=1).shape[1] > mine.shape[1]


def pair_of(one: Planes, other: Planes, axis: InputAxis) -> tuple[Tensor, Tensor] | None:
    """The planes of pairs of tokens, that which changes along an earlier dimension first."""
    # Those are pairs of which each lies along a dimension where nothing of the other changes.
    free = [
        [
            dim
            for dim in range(mine[axis].ndim)
            if varies(mine[axis], dim) and not any(varies(plane, dim) for plane in theirs.values())
        ]
        for mine, theirs in ((one, other), (other, one))
    ]
    if not all(free):
        return None
    return (one[axis], other[axis]) if free[0] < free[1] else (other[axis], one[axis])


def are_each_once(planes: Planes, axis: InputAxis) -> bool:
    """Whether no token along an axis has several places, each sample and other axis apart."""
    others = [plane for each, plane in planes.items() if each is not axis and is_place(each)]
    parts = [small(compact(plane)) for plane in (planes[axis], *others)]
    lines = torch.stack(torch.broadcast_tensors(*parts)).flatten(1)
    lines = lines[:, lines[0] >= 0]
    return lines.unique(dim=1).shape[1] == lines.shape[1]


IN_ORDER, EACH_ONCE = 2, 1
"""The rank of a plane whose indices never fall, and more where each is there once.

Of one whose indices never rise it is 1.
"""


def _order(plane: Tensor) -> int:
    """How well a plane numbers a sequence: negative with gaps, more if it is in order."""
    short = small(plane)
    steps = [short.diff(dim=k) for k in range(short.ndim) if short.shape[k] > 1]
    gaps = -IN_ORDER if bool((short < 0).any()) else 0
    if all(bool((step >= 0).all()) for step in steps):
        is_each_once = all(bool((step > 0).all()) for step in steps)
        return IN_ORDER + EACH_ONCE * is_each_once + gaps
    return (1 if all(bool((step <= 0).all()) for step in steps) else 0) + gaps


def set_in_place(made: Coordinates) -> Coordinates:
    """The coordinates with the numbers of tokens that met others, as their order shows them.

    The number of what two tokens met in is that of either. Where there is one place for every
    token, those that are there twice are not known, unless the numbers never fall along the
    places, or never rise, or at least half of them are in their places.
    """
    planes, is_open = {**made.planes}, set(made.met & made.planes.keys())
    if not is_open:
        return made
    for axis in [*is_open]:
        planes[axis] = _in_place(made.planes, axis)
        numbers = small(planes[axis])
        if len(numbers[numbers >= 0].unique()) == axis.size:
            is_open.remove(axis)
    return replace(made, planes=planes, met=frozenset(is_open))


def _in_place(planes: Planes, axis: InputAxis) -> Tensor:
    plane = small(compact(planes[axis]))
    if plane.numel() < axis.size or bool((plane == NONE).any()):
        return planes[axis]
    others = [x for one, x in planes.items() if one is not axis and one.source is axis.source]
    parts = torch.broadcast_tensors(plane, *(small(compact(other)) for other in others))
    numbers, *rest = (part.flatten() for part in parts)
    samples = torch.stack([torch.zeros_like(numbers), *rest]).unique(dim=1, return_inverse=True)[1]
    order, count = samples.argsort(stable=True), 1 + int(samples.max())
    lines = numbers[order].reshape(-1, axis.size) if len(order) == count * axis.size else order[:0]
    if not len(lines) or bool((lines != lines[0]).any()):
        return planes[axis]
    line, own = lines[0], torch.arange(axis.size).to(lines)
    _, which, counts = line.unique(return_inverse=True, return_counts=True)
    is_known = (counts[which] == 1) & (line >= 0)
    found = line.where(is_known, MANY)
    for places, steps in ((own, line.diff()), (own.flip(0), -line.diff())):  # or from the last on
        is_in_order = bool((steps >= 0).all() and (line >= 0).all())
        in_place = bool(((found == places) == is_known).all() and 2 * is_known.sum() >= axis.size)
        if is_in_order or in_place:
            found = places
            break
    numbers = numbers.scatter(0, order, found.repeat(count))
    return compact(numbers.reshape(parts[0].shape)).expand(planes[axis].shape)


class Merged(NamedTuple):
    """Two planes of one axis combined."""

    plane: Tensor
    meet: bool  # whether several indices meet in it
    spread: bool  # whether an index meets what is made of many
    weighed: bool = False  # whether a score meets its key, which is not its query


def merged(
    one: Tensor,
    other: Tensor,
    columns: Tensor | None = None,
    have_met: tuple[bool, bool] = (False, False),
) -> Merged:
    """Two planes of tensors that are added or multiplied element by element.

    Args:
        have_met: whether tokens have met in each of them before, as in the state of a loop.
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
    if both.any():
        one, other = small(compact(one)), small(compact(other))
        if one.numel() == other.numel() == 1 and have_met[0] != have_met[1]:
            # A token that comes to the state of a loop, in whatever order.
            return Merged(other if have_met[0] else one, meet=True, spread=False)
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


MAX_BYTES = 2**25
MAX_ENTRIES = 4096


class Remembered:
    """Results by what they follow from; all are forgotten when they hold too much memory."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Any] = {}
        self._memory: set[int] = set()
        self._bytes = 0

    def of(self, key: Hashable) -> Any:
        return self._found.get(key)

    def add(self, key: Hashable, result: Any, held: Iterable[Coordinates | None]) -> None:
        if self._bytes > MAX_BYTES or len(self._found) >= MAX_ENTRIES:
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


class _Layout(NamedTuple):
    """How a tensor lies in its memory: shape, strides and offset, in elements of ``size`` bytes."""

    shape: Size
    stride: tuple[int, ...]
    offset: int
    size: int

    @classmethod
    def of(cls, tensor: Tensor) -> "_Layout":
        return cls(tensor.shape, tensor.stride(), int(tensor.storage_offset()), tensor.itemsize)

    @property
    def bounds(self) -> tuple[int, int]:
        """The first byte of memory that it lies in, and that behind the last."""
        pairs = zip(self.shape, self.stride, strict=True)
        last = self.offset + sum(max(count - 1, 0) * step for count, step in pairs)
        return self.offset * self.size, (last + 1) * self.size

    @property
    def is_dense(self) -> bool:
        first, last = self.bounds
        return self.shape.numel() * self.size >= last - first

    @property
    def is_packed(self) -> bool:
        """Whether every place of its memory is one element."""
        sizes = sorted(
            (step, count) for step, count in zip(self.stride, self.shape, strict=True) if count > 1
        )
        return all(
            step == prod(count for _, count in sizes[:k]) for k, (step, _) in enumerate(sizes)
        )

    def within(self, flat: Tensor, first: int, unit: int) -> Tensor:
        """The tensor in memory of units from a byte on, with an axis for those of an element."""
        each = self.size // unit
        stride = (*(step * each for step in self.stride), 1)
        return flat.as_strided((*self.shape, each), stride, self.offset * each - first // unit)

    def flat(self, plane: Tensor, first: int, last: int, unit: int) -> Tensor:
        """A plane in memory of units between two bytes, ``NONE`` where it says nothing."""
        made = torch.full(((last - first) // unit,), NONE, device=plane.device)
        # Elements along an expanded axis are one place, which is written once.
        once = tuple(slice(0, 1 if step == 0 else None) for step in (*self.stride, 1))
        written = plane.expand(self.shape).unsqueeze(-1)
        self.within(made, first, unit)[once].copy_(written[once])
        return made


def _seen(plane: Tensor, base: _Layout, view: _Layout) -> Tensor:
    """The plane of a view, from that of the tensor that it is a view of."""
    if (line := _along_one_axis(plane, base, view)) is not None:
        return line
    unit, first, last = _both(base, view)
    return compact(view.within(base.flat(plane, first, last, unit), first, unit)[..., 0])


def _along_one_axis(plane: Tensor, base: _Layout, view: _Layout) -> Tensor | None:
    """The plane of a view, where one axis of both decides at most; None where more do."""
    short = small(plane)
    axes = [k for k, size in enumerate(short.shape) if size > 1]
    if len(axes) > 1 or base.size != view.size or not base.is_packed:
        return None
    if short.numel() == 1:
        return short.reshape(()).expand(view.shape)
    # An index along this axis is the place in memory over ``step``, modulo ``count``.
    step, count = base.stride[axes[0]], base.shape[axes[0]]
    begin = view.offset - base.offset
    steps = {
        k: one for k, one in enumerate(view.stride) if view.shape[k] > 1 and one % (step * count)
    }
    along = [k for k, one in steps.items() if one >= step]
    inside = sum((view.shape[k] - 1) * one for k, one in steps.items() if one < step)
    if len(along) != 1 or begin % step + inside >= step or steps[along[0]] % step:
        return None
    (k,) = along
    first, jump, size = begin // step, steps[k] // step, view.shape[k]
    line = short.flatten()
    if (first, jump, size) != (0, 1, count):
        line = line[(first + jump * torch.arange(size, device=line.device)) % count]
    return line.reshape(-1, *(1,) * (len(view.shape) - 1 - k)).expand(view.shape)


def _both(one: _Layout, other: _Layout) -> tuple[int, int, int]:
    """The bytes of a unit of two layouts, and the first and last byte that they lie in."""
    starts, ends = zip(one.bounds, other.bounds, strict=True)
    return min(one.size, other.size), min(starts), max(ends)


def windows_of(lines: Tensor) -> tuple[Tensor, Tensor] | None:
    """The first and the last index in every row; None if a row leaves some between them out."""
    known = lines >= 0
    first, last = lines.where(known, torch.inf).amin(1), lines.amax(1)
    ordered = lines.where(known, first[:, None]).sort(1).values
    is_whole = bool(known.any(1).all()) and bool((ordered.diff(dim=1) <= 1).all())
    return (first, last) if is_whole and bool((lines != MANY).all()) else None


def compact(plane: Tensor) -> Tensor:
    """The plane with stride 0 along the axes on which its numbers do not change."""
    for dim, (size, stride) in enumerate(zip(plane.shape, plane.stride(), strict=True)):
        if stride and size > 1:
            first = plane.narrow(dim, 0, 1).expand(plane.shape)
            plane = first if torch.equal(first, plane) else plane
    short = small(plane)
    return plane if short.shape == plane.shape else short.clone().expand(plane.shape)


@dataclass(eq=False)
class _Memory:
    """What is known of the tensors in one piece of memory.

    Attributes:
        layout: of the tensor that ``coordinates`` are of.
        is_decided: whether it holds truth values or whole numbers that numbers of tokens decided,
            such as which of them is the largest.
        is_open: whether it is not known what its numbers, or ids, were made of.
        filled: the number that it was filled with last, if nothing but that was done to it.
    """

    is_gone: Callable[[], bool]
    layout: _Layout
    coordinates: Coordinates | None
    are_numbers: bool
    is_decided: bool = False
    is_open: bool = False
    filled: Tensor | None = None


MIN_FORGOTTEN = 256


class KnownTensors:
    """The coordinates of the tensors of a run, while their memory is alive.

    Views share the coordinates of the memory that they look at, so a write into one is seen in all.
    """

    def __init__(self) -> None:
        self._memories: dict[int, _Memory] = {}
        self._forgets_at = MIN_FORGOTTEN
        self._views = Remembered()
        self._at_hand: dict[int, _Memory | None] | None = None

    @contextmanager
    def during_a_step(self) -> Iterator[None]:
        """Inside, all tensors that are asked about stay alive, and each is looked up once."""
        self._at_hand = {}
        try:
            yield
        finally:
            self._at_hand = None

    def _memory(self, tensor: Tensor) -> _Memory | None:
        at_hand = {} if self._at_hand is None else self._at_hand
        if id(tensor) not in at_hand:
            found = self._memories.get(memory_key(tensor))
            at_hand[id(tensor)] = None if found is None or found.is_gone() else found
        return at_hand[id(tensor)]

    def __contains__(self, tensor: Tensor) -> bool:
        return self._memory(tensor) is not None

    def has(self, tensor: Tensor) -> bool:
        """Whether something in the memory of a tensor comes from an input."""
        memory = self._memory(tensor)
        return memory is not None and memory.coordinates is not None

    def note(self, tensors: Iterable[Tensor], *, are_open: bool = False) -> None:
        """Tell of tensors that the run made or was given, of which no more may be known."""
        for tensor in tensors:
            if tensor not in self and tensor.numel():
                self._begin(tensor).is_open = are_open

    def is_open(self, tensor: Tensor) -> bool:
        """Whether it is not known what a tensor was made of: tokens, weights or constants."""
        memory = self._memory(tensor)
        if memory is not None and memory.filled is not None:  # unless native code wrote into it
            with unheard():
                memory.is_open |= not torch.equal(tensor, memory.filled.expand_as(tensor))
        return tensor.numel() > 0 and (memory is None or memory.is_open)

    def leave_open(self, tensor: Tensor, *, is_open: bool, is_filled: bool = False) -> None:
        if (memory := self._memory(tensor)) is not None:
            memory.is_open, memory.filled = is_open, None
            if is_filled and tensor.numel():
                with unheard():
                    memory.filled = tensor.flatten()[0].clone()

    def _begin(self, tensor: Tensor) -> _Memory:
        storage, held = memory_of(tensor), weakref.ref(tensor)
        is_gone = (lambda: held() is None) if storage is None else StorageWeakRef(storage).expired
        memory = _Memory(is_gone, _Layout.of(tensor), None, are_numbers(tensor))
        self._memories[memory_key(tensor)] = memory
        if self._at_hand is not None:  # others of them may be views of this memory
            self._at_hand = {id(tensor): memory}
        if len(self._memories) > self._forgets_at:
            alive = {key: one for key, one in self._memories.items() if not one.is_gone()}
            self._memories, self._forgets_at = alive, max(MIN_FORGOTTEN, 2 * len(alive))
        return memory

    def axes_of(self, tensor: Tensor) -> Iterable[InputAxis]:
        """The axes that something in the memory of a tensor comes from."""
        memory = self._memory(tensor)
        return () if memory is None or memory.coordinates is None else memory.coordinates.planes

    def of(self, tensor: Any) -> Coordinates | None:
        memory = self._memory(tensor) if isinstance(tensor, Tensor) else None
        if memory is None or memory.coordinates is None:
            return None
        layout, held = _Layout.of(tensor), memory.coordinates
        if layout == memory.layout:
            return held
        key = held, memory.layout, layout
        found: Coordinates | None = self._views.of(key)
        if found is None:
            with unheard():  # no step of a run
                found = held.moved(lambda plane: _seen(plane, memory.layout, layout), layout.shape)
                found = set_in_place(found)
            self._views.add(key, found, (held, found))
        return found

    def decides(self, tensor: Tensor) -> bool:
        """Whether a tensor holds numbers of tokens, or what was decided by such numbers."""
        # Ids and masks that the model is given do not: they say which tokens there are.
        if are_numbers(tensor):
            return self.has(tensor)
        return self.is_decided(tensor)

    def is_decided(self, tensor: Tensor) -> bool:
        memory = self._memory(tensor)
        are_bits = memory is not None and memory.are_numbers and not are_numbers(tensor)
        return memory is not None and (memory.is_decided or are_bits)

    def know(self, tensor: Tensor, found: Coordinates | None, *, is_decided: bool = False) -> None:
        """Note what a tensor is made of from now on, and so the memory that it may be a view of."""
        memory, layout = self._memory(tensor), _Layout.of(tensor)
        if memory is None:
            if found is None or not tensor.numel():
                return
            memory = self._begin(tensor)
        is_all = layout == memory.layout
        unit, first, last = (0, 0, 0) if is_all else _both(memory.layout, layout)
        if is_all or (layout.is_dense and layout.bounds == (first, last)):
            memory.layout, memory.coordinates = layout, found
            memory.are_numbers, memory.is_decided = are_numbers(tensor), is_decided
            return
        memory.is_decided |= is_decided
        before = memory.coordinates or Coordinates(Size(()), {})
        after = found or Coordinates(Size(()), {})
        base = memory.layout
        is_dense = base.is_dense and base.bounds == (first, last)

        def written(old: Planes, new: Planes) -> Planes:
            """The planes of the memory, with others in the place of the tensor."""
            found = {}
            for axis in dict.fromkeys((*old, *new)):
                nothing = torch.full((), NONE, device=tensor.device)
                flat = base.flat(old.get(axis, nothing), first, last, unit)
                there = layout.within(flat, first, unit)
                there.copy_(new.get(axis, nothing).unsqueeze(-1))
                found[axis] = base.within(flat, first, unit)[..., 0] if is_dense else flat
            return found

        planes = written(before.planes, after.planes)
        # Scores that tokens are written over, or that are written over tokens, are none any more.
        are_scores = all(one.columns or not one.planes for one in (before, after))
        columns = written(before.columns, after.columns) if are_scores else {}
        if is_dense:
            met = before.met | after.met
            memory.coordinates = set_in_place(Coordinates(base.shape, planes, columns, met))
            return
        shape = Size(((last - first) // unit,))
        memory.layout = _Layout(shape, (1,), first // unit, unit)
        memory.coordinates = Coordinates(shape, planes, columns)
