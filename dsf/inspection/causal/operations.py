"""How the coordinates of a tensor follow from those of the tensors that it is computed from.

One rule for every kind of torch operation: those that move elements, that work on them one by one,
that reduce axes, and that sum products over an axis. ``Meeting`` states that an operation made one
element of several indices along an axis.

``Done``: an operation of torch that ran.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache, cached_property, partial
from typing import Any

import torch
from torch import Size, Tensor

from dsf.inspection.causal.coordinates import (
    MANY,
    NONE,
    Coordinates,
    InputAxis,
    Move,
    Planes,
    Source,
    merged,
    reduced,
    small,
    varies,
)


class Way(Enum):
    """What an operation does in which tokens meet."""

    SUMS = "a product sums over tokens"
    SOFTMAX = "a softmax over tokens"
    FIXED = "fixed weights sum over tokens"
    ATTENTION = "attention"
    JOINS = "joins different tokens"
    NEIGHBOURS = "sums over neighbouring tokens"
    GROUPS = "a norm over disjoint groups of tokens"
    REMAKES = "makes new tokens of groups"
    OTHER = "other"


@dataclass(frozen=True)
class Meeting:
    """In one operation several indices along an axis met in one element.

    Attributes:
        way: what the operation does to them.
        words: the same in more words; those of ``way`` where there are none.
        is_known: whether there is a rule for the operation; if not, they may not meet at all.
        chooses: whether they decide about one another alone, as the largest of them does.
    """

    axis: InputAxis
    way: Way = Way.OTHER
    words: str = ""
    is_known: bool = True
    chooses: bool = False

    @property
    def how(self) -> str:
        """What the operation does to them, in words."""
        return self.words or self.way.value


@dataclass(frozen=True, eq=False)
class Followed:
    """The coordinates of the outputs of an operation, and what met in it."""

    outputs: tuple[Coordinates | None, ...]
    meetings: tuple[Meeting, ...] = ()


Find = Callable[[Any], Coordinates | None]
Rule = Callable[[Find, str, tuple[Any, ...], dict[str, Any], tuple[Tensor, ...]], Followed]


def is_place(axis: InputAxis) -> bool:
    """Whether an axis counts places, such as tokens and samples, and not channels."""
    return axis.source.channels is not axis


@cache
def name_of(func: Any) -> str:
    """The name of an operation of torch, without that of its library."""
    schema = getattr(func, "_schema", None)  # operators of higher order have none
    return str(func if schema is None else schema.name.partition("::")[2])


@cache
def is_view(func: Any) -> bool:
    """Whether an operation returns a view of its first argument."""
    returns = getattr(getattr(func, "_schema", None), "returns", ())
    alias = returns[0].alias_info if returns else None
    return alias is not None and not alias.is_write


@cache
def is_written(func: Any) -> bool:
    """Whether an operation writes into its first argument."""
    arguments = getattr(getattr(func, "_schema", None), "arguments", ())
    alias = arguments[0].alias_info if arguments else None
    return alias is not None and alias.is_write


@cache
def is_pointwise(func: Any) -> bool:
    """Whether an operation works on elements one by one, its in-place form too."""
    name = name_of(func)
    if torch.Tag.pointwise in getattr(func, "tags", ()) or name.rstrip("_") in (
        "addcmul",
        "addcdiv",
        "lerp",
    ):
        return True
    if not name.endswith("_"):
        return False
    packet = getattr(torch.ops.aten, name.rstrip("_"), None)
    overloads = packet.overloads() if packet is not None else ()
    return any(torch.Tag.pointwise in getattr(packet, one).tags for one in overloads)


def plain(part: Any) -> Hashable:
    """An argument without its numbers: of a tensor the shape and type."""
    if isinstance(part, Tensor):
        return part.shape, part.dtype
    if isinstance(part, tuple | list):
        return tuple(map(plain, part))
    return part if isinstance(part, Hashable) else id(part)


def tensors_in(args: Sequence[Any]) -> list[Tensor]:
    """The tensors among arguments, also in lists."""
    found: list[Tensor] = []
    for part in args:
        if isinstance(part, Tensor):
            found.append(part)
        elif isinstance(part, tuple | list):
            found += [each for each in part if isinstance(each, Tensor)]
    return found


# --- elements one by one

MANY_AND_ONE = "what is made of many tokens meets single ones"


def together(parts: Sequence[Coordinates], shape: Size, how: str) -> Followed:
    """Tensors that are combined element by element."""
    meetings: dict[InputAxis, Meeting] = {}
    planes: Planes = {}
    columns: Planes = {}
    for part in parts:
        for axis, plane in part.columns.items():
            spread = plane.expand(shape)
            columns[axis] = torch.maximum(columns[axis], spread) if axis in columns else spread
    for part in parts:
        for axis, plane in part.planes.items():
            if axis not in planes:
                planes[axis] = plane.expand(shape)
                continue
            found = merged(planes[axis], plane.expand(shape), columns.get(axis))
            if found.meet or found.spread or found.weighed:
                meetings[axis] = Meeting(axis, Way.JOINS, how)
            planes[axis] = found.plane.expand(shape)
    _settle_slots(parts, planes, meetings, how)
    for axis in _made_and_unmade(parts):
        meetings.setdefault(axis, Meeting(axis, words="tokens meet groups that were made of them"))
    return Followed((Coordinates(shape, planes, columns),), tuple(meetings.values()))


def _made_and_unmade(parts: Sequence[Coordinates]) -> Iterator[InputAxis]:
    """The axes of tokens in one part of which another part holds groups, made of several."""
    for part in parts:
        made = {a for axis in part.planes if axis.source.kind == "made" for a in all_before(axis)}
        for other in parts:
            yield from (a for a in other.planes if a in made and a not in part.planes)


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


def _settle_slots(
    parts: Sequence[Coordinates], planes: Planes, meetings: dict[InputAxis, Meeting], how: str
) -> None:
    """Slots that are added to the tokens that they are made of are tokens in the same places."""
    for axis in [axis for axis in planes if axis.source.kind == "slots"]:
        tokens = [p for p in parts if axis not in p.planes]
        before = axis.source.before
        made_of = next((a for p in tokens for a in p.planes if a in before), None)
        if made_of is None:
            continue
        if not bool((small(planes[axis]) == small(planes[made_of])).all()):
            meetings[made_of] = Meeting(made_of, Way.JOINS, how)
        del planes[axis]


def pointwise(
    find: Find, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]
) -> Followed:
    parts = [c for each in tensors_in((*args, *kwargs.values())) if (c := find(each)) is not None]
    if not parts:
        return Followed((None,) * len(out))
    made = together(parts, out[0].shape, f"'{name.strip('_')}' {Way.JOINS.value}")
    return Followed(made.outputs * len(out), made.meetings)


def same_places(like: Coordinates, shape: Size) -> Coordinates | None:
    """The coordinates of a tensor whose tokens lie where those of another do; None if they cannot.

    Sizes may differ only along axes on which no index changes.
    """
    if len(shape) != len(like.shape):
        return None
    planes = {}
    for axis, plane in like.planes.items():
        short = small(plane)
        sizes = zip(short.shape, shape, strict=True)
        if any(size not in (1, wanted) for size, wanted in sizes):
            differing = [k for k in range(len(shape)) if plane.shape[k] != shape[k]]
            short, _ = reduced(plane, differing)
            if any(a not in (1, b) for a, b in zip(short.shape, shape, strict=True)):
                continue
        planes[axis] = short.expand(shape)
    return Coordinates(shape, planes)


# --- elements moved

MOVES = {
    *("permute", "transpose", "t", "numpy_T", "slice", "select", "squeeze", "unsqueeze"),
    *("unbind", "split", "split_with_sizes", "unfold", "alias", "detach", "diagonal", "flip"),
    *("roll", "repeat", "index_select", "gather", "expand", "reflection_pad1d"),
    *("reflection_pad2d", "replication_pad1d", "replication_pad2d", "pixel_shuffle"),
    *("pixel_unshuffle", "channel_shuffle", "rot90", "tile", "movedim", "index", "take"),
    *("upsample_nearest1d", "upsample_nearest2d", "narrow", "chunk", "repeat_interleave", "im2col"),
}
RESHAPES = {"view", "_unsafe_view", "reshape", "_reshape_alias", "flatten"}
KEEPS = {"clone", "_to_copy", "contiguous", "dropout", "native_dropout", "tril", "triu"}
KEEPS |= {"lift_fresh"}
KEEPS |= {"_conj", "resolve_conj", "resolve_neg", "_neg_view", "conj", "real", "imag"}
KEEPS |= {"_native_batch_norm_legit_no_training", "_batch_norm_no_update", "nan_to_num"}


def moved(
    find: Find, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
) -> Any:
    """The coordinates of what an operation that moves elements returns."""
    given = find(args[0])
    if given is None:
        return None
    if name in RESHAPES:
        return given.moved(lambda p: p.reshape(out.shape), out.shape)
    if name == "im2col":
        return given.moved(lambda p: func(p + 1, *args[1:], **kwargs) - 1, out.shape)

    def move(plane: Tensor) -> Any:
        return func(plane, *args[1:], **kwargs)

    if isinstance(out, Tensor):
        return given.moved(move, out.shape)
    planes = {axis: move(plane) for axis, plane in given.planes.items()}
    columns = {axis: move(plane) for axis, plane in given.columns.items()}
    return [
        Coordinates(
            part.shape,
            {axis: several[k] for axis, several in planes.items()},
            {axis: several[k] for axis, several in columns.items()},
        )
        for k, part in enumerate(out)
    ]


def joined(find: Find, parts: Sequence[Tensor], dim: int, out: Tensor) -> Coordinates | None:
    """The coordinates of tensors laid one behind the other along ``dim``."""
    found = [find(part) for part in parts]
    if not any(each is not None for each in found):
        return None
    pairs = [(p, c) for p, c in zip(parts, found, strict=True) if p.ndim == out.ndim]
    dim = dim % out.ndim

    def cat(which: str) -> Planes:
        axes = dict.fromkeys(a for _, c in pairs if c is not None for a in getattr(c, which))
        planes = {}
        for axis in axes:
            each = [(getattr(c, which).get(axis) if c is not None else None, p) for p, c in pairs]
            nothing = torch.full((), NONE, device=out.device)
            full = [nothing.expand(p.shape) if one is None else one for one, p in each]
            spread = [
                k
                for k in range(out.ndim)
                if k != dim and all(one.stride(k) == 0 or one.shape[k] == 1 for one in full)
            ]
            for k in spread:
                full = [one.narrow(k, 0, min(1, one.shape[k])) for one in full]
            planes[axis] = _behind_one_another(full, dim).expand(out.shape)
        return planes

    return Coordinates(out.shape, cat("planes"), cat("columns"))


def _behind_one_another(planes: Sequence[Tensor], dim: int) -> Tensor:
    """Planes joined along ``dim``; with size 1 there where that changes no number."""
    short = [small(plane) for plane in planes if plane.shape[dim]]
    is_constant = all(each.shape[dim] == 1 for each in short)
    if short and is_constant and all(torch.equal(short[0], each) for each in short[1:]):
        return short[0]
    return torch.cat(list(planes), dim)


@dataclass(frozen=True, eq=False)
class ChosenPlaces:
    """A tensor that says which elements of another are taken or written into.

    Attributes:
        laid: adds what is known of its elements to the elements that they name.
    """

    tensor: Tensor
    laid: Move


def chosen_places(name: str, args: Sequence[Any]) -> list[ChosenPlaces]:
    """The tensors that name places in an operation; none if it has none."""
    if name in ("gather", "take", "scatter", "scatter_add", "scatter_reduce"):
        index = args[1] if name == "take" else args[2]
        return [ChosenPlaces(index, lambda plane: plane)]
    if name in ("index_select", "index_add", "index_copy", "index_fill"):
        dim = args[1] % args[0].ndim
        behind = (1,) * (args[0].ndim - dim - 1)
        return [ChosenPlaces(args[2], lambda plane: plane.reshape(-1, *behind))]
    if name not in ("index", "index_put", "_index_put_impl", "_unsafe_index_put"):
        return []
    given = list(args[1])
    named = [k for k, index in enumerate(given) if index is not None]
    covered = sum(given[k].ndim if given[k].dtype is torch.bool else 1 for k in named)
    behind = (1,) * (args[0].ndim - named[0] - covered) if named else ()

    def laid(index: Tensor, plane: Tensor) -> Tensor:
        one = plane[index] if index.dtype is torch.bool else plane
        return one.reshape(*one.shape, *behind)

    return [ChosenPlaces(given[k], partial(laid, given[k])) for k in named]


def is_others_choice(chosen: Tensor, taken: Tensor | None) -> bool:
    """Whether elements were chosen by several tokens, or by another one than they belong to."""
    if bool((chosen == MANY).any()):
        return True
    if taken is None:
        return False
    return bool(((chosen >= 0) & (taken >= 0) & (chosen != taken)).any())


# --- axes reduced


def summed(given: Coordinates, dims: Sequence[int], keepdim: bool, shape: Size) -> Coordinates:
    """A tensor whose axes ``dims`` are reduced to one number each; no meeting yet."""
    dims = [dim % max(len(given.shape), 1) for dim in dims]

    pooled = [axis for axis, plane in given.planes.items() if reduced(plane, dims)[1]]
    left = [k for k in range(len(given.shape)) if k not in dims]
    still = [k for k in left if any(varies(given.planes[axis], k) for axis in pooled)]

    def fold(plane: Tensor) -> Tensor:
        plane, _ = reduced(plane, dims)
        for dim in sorted(dims, reverse=True):
            plane = plane.narrow(dim, 0, 1)
            plane = plane if keepdim else plane.squeeze(dim)
        return plane.expand(shape)

    made = given.moved(fold, shape)
    if not still or not any(axis.source.channels is not axis for axis in pooled):
        return made
    kept = left if not keepdim else list(range(len(shape)))
    source = Source("groups of tokens", before=frozenset(pooled), kind="made")
    planes = {axis: plane for axis, plane in made.planes.items() if axis not in pooled}
    for k in still:
        number = kept.index(k)
        index = torch.arange(shape[number], dtype=torch.float32)
        spread = index.reshape(-1, *[1] * (len(shape) - number - 1)).expand(shape)
        planes[InputAxis(source, number, shape[number])] = spread
    return Coordinates(shape, planes, made.columns)


# --- products summed over an axis


class Projections:
    """Decides which axis of a source holds channels: that over which projections sum first.

    If it turns out that more of them sum over another one, the run has to be followed again.

    Args:
        settled: the number of the axis of channels by the name of the source, where that is known.
        tokens: the axis of tokens of every input, where the user has said it.

    Attributes:
        asked: the axes about which it was asked so far, in order.
        known: of how many sources it is decided which axis holds channels.
    """

    def __init__(self, settled: Mapping[str, int] | None = None, tokens: int | None = None):
        self._settled, self._tokens = settled or {}, tokens
        self._sources: dict[Source, None] = {}
        self.asked: list[InputAxis] = []
        self.known = 0

    def disputed(self) -> dict[str, int]:
        """By source the axis that more projections sum over than that which came first."""
        found = {}
        for source in self._sources:
            votes = source.summed
            most = max(votes, key=lambda axis: (axis in source.normed, votes[axis]))
            first = source.channels
            if first is not None and most is not first and self._outvotes(most, first):
                found[source.name] = most.number
        return found

    @staticmethod
    def _outvotes(most: InputAxis, first: InputAxis) -> bool:
        source = most.source
        if (most in source.normed) is not (first in source.normed):
            return most in source.normed
        return source.summed[most] > source.summed.get(first, 0)

    def tied(self) -> tuple[str, int, int] | None:
        """An input of which two axes are summed over alike, and these; None if there is none.

        By custom channels lie last, in a convolution second: summing over them first is not a tie.
        """
        for source in self._sources:
            first, votes = source.channels, source.summed
            if first is None or self._is_said(source) or source.name in self._settled:
                continue
            if first.number == source.rank - 1 or first in source.normed:
                continue
            for axis in votes:
                if axis is not first and axis.number > 0 and votes[axis] == votes[first]:
                    low, high = sorted((first.number, axis.number))
                    return source.name, low, high
        return None

    def _is_said(self, source: Source) -> bool:
        return self._tokens is not None and source.rank > 1 and self._tokens % source.rank > 0

    def are_channels(self, axis: InputAxis, *, in_norm: bool = False) -> bool:
        """Whether an axis over which a projection sums holds the channels of its source.

        Args:
            in_norm: whether it is a norm that sums over it.
        """
        source: Source = axis.source
        self.asked.append(axis)
        source.summed[axis] = source.summed.get(axis, 0) + 1
        if in_norm:
            source.normed.add(axis)
        self._sources[source] = None
        if self._tokens is not None and source.rank and self._tokens % source.rank == axis.number:
            return False
        if source.channels is None and source.kind == "input":
            settled = self._settled.get(source.name, axis.number)
            if settled == axis.number:
                source.channels = axis
                self.known += 1
        return source.channels is axis


@dataclass(eq=False)
class _Contracted:
    """The coordinates of a matrix product while they are found, axis by axis."""

    shape: Size
    are_channels: Callable[[InputAxis], bool]
    planes: Planes = field(default_factory=dict)
    columns: Planes = field(default_factory=dict)
    meetings: list[Meeting] = field(default_factory=list)
    slots: dict[int, list[InputAxis]] = field(default_factory=dict)

    def meet(self, axis: InputAxis, way: Way = Way.OTHER, words: str = "") -> None:
        self.meetings.append(Meeting(axis, way, words))

    def outer(self, axis: InputAxis, row: Tensor | None, read: Tensor | None) -> None:
        """An axis over which the product does not sum."""
        if row is None or read is None:
            only = read if row is None else row
            if only is not None:
                self.planes[axis] = only.expand(self.shape)
            return
        found = merged(row, read)
        if not found.meet:
            self.planes[axis] = found.plane.expand(self.shape)
            if found.spread:
                self.meet(axis, words=MANY_AND_ONE)
            return
        if not reduced(row, [-2])[1] and not reduced(read, [-1])[1]:  # no scores: one of each
            self.planes[axis] = found.plane.expand(self.shape)
            self.meet(axis, Way.JOINS, "a product joins different tokens")
            return
        self.planes[axis], self.columns[axis] = row.expand(self.shape), read.expand(self.shape)

    def inner(
        self, axis: InputAxis, lost: Tensor, kept: Tensor | None, *, dim: int, fixed: bool
    ) -> None:
        """An axis that changes along what is summed over, in one of both factors.

        Args:
            lost: its plane there.
            kept: its plane in the other factor, if that has one.
            dim: the axis of ``lost`` that is summed over; that of the result which replaces it.
            fixed: whether the other factor comes from no input.
        """
        other = -1 if dim == -2 else -2
        if kept is not None and bool((kept >= 0).any()):
            self.planes[axis] = kept.expand(self.shape)
            self.meet(axis, Way.SUMS)
        elif reduced(lost, [other])[1]:  # channels of different tokens
            self.planes[axis] = small(lost).amax(dim=dim, keepdim=True).expand(self.shape)
            self.meet(axis, words="a projection sums channels of different tokens")
        elif fixed and self.are_channels(axis):
            return
        elif fixed:
            self.slots.setdefault(dim, []).append(axis)
            self.meet(axis, Way.FIXED)
        else:
            self.planes[axis] = torch.full((), MANY, device=lost.device).expand(self.shape)


def product(
    left: Coordinates | None,
    right: Coordinates | None,
    shape: Size,
    are_channels: Callable[[InputAxis], bool],
) -> Followed:
    """A matrix product ``*batch time inner`` by ``*batch inner read``."""
    rows = left.planes if left is not None else {}
    reads = right.planes if right is not None else {}
    made, device = _Contracted(shape, are_channels), None
    grouped = groups_of(left, shape) if left is not None and right is None else None
    for axis in dict.fromkeys((*rows, *reads)):
        if grouped is not None and axis in grouped.axes:
            made.meet(axis, Way.REMAKES, "a projection makes new tokens of disjoint groups")
            continue
        one, other = rows.get(axis), reads.get(axis)
        if has_many_and_one(one, -1) or has_many_and_one(other, -2):
            made.meet(axis, words=MANY_AND_ONE)
        row, many_rows = reduced(one, [-1]) if one is not None else (None, False)
        read, many_reads = reduced(other, [-2]) if other is not None else (None, False)
        device = (other if one is None else one).device  # type: ignore[union-attr]
        if many_rows and many_reads:  # sums over both: a product of channels, or a pool
            if axis.source.channels is not axis:
                made.planes[axis] = torch.full((), MANY, device=device).expand(shape)
                made.meet(axis, Way.SUMS)
        elif many_rows and one is not None:
            made.inner(axis, one, read, dim=-1, fixed=right is None)
        elif many_reads and other is not None:
            made.inner(axis, other, row, dim=-2, fixed=left is None)
        else:
            made.outer(axis, row, read)
    for dim, axes in made.slots.items():
        made.planes |= slots_of(axes, dim, shape, device)
    if grouped is not None:
        made.planes |= grouped.planes
    return Followed((Coordinates(shape, made.planes, made.columns),), tuple(made.meetings))


@dataclass(frozen=True, eq=False)
class _Groups:
    """Axes of which every row holds a group of its own, and the positions of the groups."""

    axes: frozenset[InputAxis]
    planes: Planes


def groups_of(given: Coordinates, shape: Size) -> _Groups | None:
    """The groups that a projection makes one token each: its rows, where none shares a token.

    None where rows hold single tokens, or where a token is in several rows.
    """
    if given.shape[:-1] != shape[:-1] or len(given.shape) < 2:
        return None
    places = {axis: plane for axis, plane in given.planes.items() if is_place(axis)}
    inside = [axis for axis, plane in places.items() if reduced(plane, [-1])[1]]
    ahead = list(range(len(given.shape) - 1))
    axes = [axis for axis in inside if reduced(places[axis], ahead)[1]]
    if not axes or any(bool((small(places[axis]) < 0).any()) for axis in axes):
        return None
    token = _numbered(places, axes, given.shape)
    apart = [axis for axis in places if axis not in inside]
    sample = _numbered(places, apart, given.shape)
    both = sample * (token.max() + 1) + token
    rows = torch.arange(both.shape[0], device=both.device)[:, None].expand(both.shape)
    pairs = torch.stack([both.flatten(), rows.flatten()], dim=1).unique(dim=0)
    if len(pairs) != len(both.unique()):
        return None
    first = token.amin(dim=1).unique(return_inverse=True)[1].float()
    index = first.reshape(*shape[:-1], 1).expand(shape)
    count = int(first.max()) + 1
    source = Source("a projection", before=frozenset(axes), kind="made")
    return _Groups(frozenset(axes), {InputAxis(source, len(shape) - 2, count): index})


def _numbered(planes: Planes, axes: Sequence[InputAxis], shape: Size) -> Tensor:
    """One whole number for the indices along several axes, ``row element``."""
    number = torch.zeros((), dtype=torch.long)
    for axis in axes:
        number = number * axis.size + planes[axis].long().clamp(min=0)
    return number.expand(shape).reshape(-1, shape[-1])


def has_many_and_one(plane: Tensor | None, dim: int) -> bool:
    """Whether what is made of many tokens is next to single ones along what is summed over."""
    if plane is None:
        return False
    short = small(plane)
    if short.shape[dim] == 1:
        return False
    many, single = (short == MANY).any(dim), (short >= 0).any(dim)
    return bool((many & single).any())


def slots_of(
    axes: Sequence[InputAxis], dim: int, shape: Size, device: torch.device | None
) -> dict[InputAxis, Tensor]:
    """New positions along ``dim``, each a sum over the tokens along ``axes``."""
    size, dim = shape[dim], dim % len(shape)
    index = torch.arange(size, dtype=torch.float32, device=device)
    spread = index.reshape(-1, *[1] * (len(shape) - dim - 1)).expand(shape)
    return {_slot_axis(axes, dim, size): spread}


def _slot_axis(axes: Sequence[InputAxis], dim: int, size: int) -> InputAxis:
    """The axis of slots that are made of these tokens: one for all layers that make such slots.

    Slots of slots are made of the tokens of these, so that the number of axes does not grow.
    """
    roots = frozenset(
        each for axis in axes for each in (axis.source.before if _is_slot(axis) else (axis,))
    )
    first = min(roots, key=lambda axis: (axis.source.name, axis.number, axis.size))
    known = first.source.slots
    if (roots, dim, size) not in known:
        source = Source("slots", before=roots, kind="slots")
        known[roots, dim, size] = InputAxis(source, dim, size)
    return known[roots, dim, size]


def _is_slot(axis: InputAxis) -> bool:
    return axis.source.kind == "slots"


# --- convolutions


@dataclass(frozen=True)
class SlidingWindow:
    """The window of a convolution or a pool: one number for each axis behind the second."""

    name: str
    sizes: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    depthwise: bool
    groups: int = 1

    @classmethod
    def of(
        cls,
        name: str,
        sizes: Sequence[int],
        steps: tuple[Sequence[int], Sequence[int], Sequence[int]],
        *,
        transposed: bool = False,
        depthwise: bool,
        groups: int = 1,
    ) -> "SlidingWindow":
        """A window from torch's stride, padding and dilation, where one number stands for all."""
        count = len(sizes)
        stride, padding, dilation = (tuple((list(part) * count)[:count]) for part in steps)
        return cls(name, tuple(sizes), stride, padding, dilation, transposed, depthwise, groups)

    @property
    def keeps_places(self) -> bool:
        """Whether there is one output for every input."""
        return not self.transposed and all(step == 1 for step in self.stride)


def convolved(
    given: Coordinates,
    window: SlidingWindow,
    shape: Size,
    are_channels: Callable[[InputAxis], bool],
) -> Followed:
    """A convolution or pool over the axes behind the second, which holds channels."""
    planes: Planes = {}
    meetings: list[Meeting] = []
    remade: dict[InputAxis, int] = {}
    places, sizes, name = len(shape) - 2, window.sizes, window.name
    for axis, plane in given.planes.items():
        apart = None if window.depthwise else _by_group(plane, window.groups, shape[1])
        if not window.depthwise and has_many_and_one(plane, 1):
            meetings.append(Meeting(axis, words=MANY_AND_ONE))
        if varies(plane, 1):
            if are_channels(axis):
                axis.source.normed.add(axis)
                continue
            if not window.depthwise and apart is None:
                meetings.append(Meeting(axis, words=f"'{name}' sums over tokens as channels"))
                planes |= slots_of([axis], 1, shape, plane.device)
                continue
        first = plane if window.depthwise and plane.shape[1] == shape[1] else plane.narrow(1, 0, 1)
        first = first if apart is None else apart
        spatial = [k for k in range(places) if varies(plane, k + 2)]
        if not spatial:
            behind = [k + 2 for k in range(places)]  # where padding lies, too, which has no index
            planes[axis] = small(first).amax(dim=behind, keepdim=True).expand(shape)
            continue
        wide = [k for k in spatial if sizes[k] > 1]
        if not wide and window.keeps_places:
            planes[axis] = _shifted(first, [0] * places, shape)
            continue
        if window.keeps_places:
            offsets = [_tap(first, k, window) if k in wide else 0 for k in range(places)]
            planes[axis] = _shifted(first, offsets, shape)
            how = f"'{name}' {Way.NEIGHBOURS.value}"
            meetings.append(Meeting(axis, Way.NEIGHBOURS, how))
            continue
        remade[axis] = spatial[0]
        overlaps = any(sizes[k] > window.stride[k] for k in spatial)
        words = "overlapping" if overlaps else "disjoint"
        how = f"'{name}' makes new tokens of {words} groups"
        meetings.append(Meeting(axis, Way.REMAKES, how))
    if remade:
        planes |= new_positions(remade, shape, name, next(iter(given.planes.values())).device)
    return Followed((Coordinates(shape, planes),), tuple(meetings))


def _by_group(plane: Tensor, groups: int, outputs: int) -> Tensor | None:
    """The plane of the output of a convolution in groups; None where a group holds several tokens.

    Every output reads the channels of its own group.
    """
    if groups == 1 or not varies(plane, 1):
        return None
    grouped = plane.unflatten(1, (groups, -1))
    line, several = reduced(grouped, [2])
    if several:
        return None
    line = line.expand(*grouped.shape[:2], 1, *grouped.shape[3:])
    return line.repeat_interleave(outputs // groups, dim=2).flatten(1, 2)


def new_positions(
    remade: dict[InputAxis, int], shape: Size, name: str, device: torch.device, kind: str = "made"
) -> Planes:
    """Axes of positions that a module made of others, behind the second axis."""
    source = Source(name, before=frozenset(remade), kind=kind)
    planes: Planes = {}
    for number in sorted({2 + k for k in remade.values()}):
        size = shape[number]
        index = torch.arange(size, dtype=torch.float32, device=device)
        spread = index.reshape(-1, *[1] * (len(shape) - number - 1)).expand(shape)
        planes[InputAxis(source, number, size)] = spread
    return planes


def _tap(plane: Tensor, place: int, window: SlidingWindow) -> int:
    """By how much the token of an output is shifted from its index: the tap that is its own."""
    dim, padding = place + 2, window.padding[place]
    reach = (window.sizes[place] - 1) * window.dilation[place]
    before = -padding
    if padding == reach and padding > 0:
        return before + reach
    count = plane.shape[dim] + 2 * padding - reach
    line = small(plane).amax(dim=[k for k in range(plane.ndim) if k != dim])

    def seen(shift: int) -> int:
        if line.numel() == 1:
            return 0
        index = torch.arange(count, device=plane.device) + shift
        inside = index[(index >= 0) & (index < line.numel())]
        return int((line[inside] >= 0).sum())

    options = {before + reach // 2: 1, before + reach: 0}
    if count > int((line >= 0).sum()):
        # A window of even size has two taps in its middle. Where it returns more than there are
        # tokens, the last of that is cut off as a rule, so that the first is of the first token.
        options[before + (reach + 1) // 2] = 2
    return max(options, key=lambda shift: (seen(shift), options[shift]))


def _shifted(plane: Tensor, offsets: Sequence[int], shape: Size) -> Tensor:
    """The plane of an output whose index along a place is that of the input plus an offset."""
    for k, shift in enumerate(offsets):
        dim = k + 2
        if plane.stride(dim) == 0:
            sizes = (*plane.shape[:dim], shape[dim], *plane.shape[dim + 1 :])
            plane = plane.narrow(dim, 0, 1).expand(sizes)
            continue
        index = torch.arange(shape[dim], device=plane.device) + shift
        outside = (index < 0) | (index >= plane.shape[dim])
        taken = plane.index_select(dim, index.clamp(0, plane.shape[dim] - 1))
        line = outside.reshape(-1, *[1] * (plane.ndim - dim - 1))
        plane = torch.where(line, NONE, taken)
    return plane.expand(shape)


class Done:
    """An operation that ran: its function, arguments and outputs.

    Attributes:
        given, outs: the tensors of the arguments, and those of ``out``.
        made_of: the coordinates of the tensors in ``given``, once they are looked up.
        first: the coordinates of its first argument.
    """

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        self.func, self.args, self.kwargs, self.out = func, args, kwargs, out
        self.given = tensors_in((*args, *kwargs.values()) if kwargs else args)
        self.outs: list[Tensor] = []
        if isinstance(out, Tensor):
            self.outs = [out]
        elif isinstance(out, tuple | list):
            self.outs = tensors_in(out)
        self.made_of: tuple[Coordinates | None, ...] = ()
        self.first: Coordinates | None = None

    @cached_property
    def kind(self) -> Hashable:
        """What it does, but for numbers: its function, shapes of tensors and other arguments."""
        args, kwargs = self.args, self.kwargs
        return self.func, *map(plain, args), *map(plain, kwargs.items())

    @property
    def name(self) -> str:
        """The name of the operation in torch."""
        return name_of(self.func)

    @property
    def plain(self) -> str:
        """The same for its form that writes in place."""
        return self.name.rstrip("_")

    @property
    def has_numbers_alone(self) -> bool:
        """Whether no tensor of it holds truth values or whole numbers, such as an index."""
        return all(one.is_floating_point() or one.is_complex() for one in (*self.given, *self.outs))
