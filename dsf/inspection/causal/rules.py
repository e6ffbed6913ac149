"""What every operation of torch does to the tokens that its tensors are made of.

One rule for every kind of operation: those that move elements, that work on them one by one, that
reduce axes, and that sum products over an axis. An operation without a rule is taken for one that
mixes whatever it is given. ``Meeting`` states that an operation made one element of several indices
along an axis.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Size, Tensor

from dsf.inspection.capture.containers import are_numbers, memory_key
from dsf.inspection.causal.coordinates import (
    IMAGE_AXES,
    MANY,
    NONE,
    SEQUENCE,
    Coordinates,
    InputAxis,
    KnownTensors,
    Planes,
    Remembered,
    Source,
    all_before,
    are_each_once,
    compact,
    counted,
    counts_samples,
    is_place,
    is_sent,
    merged,
    pair_of,
    reduced,
    set_in_place,
    small,
    token_numbers,
    varies,
    windows_of,
)
from dsf.inspection.recording import written_into, written_places


class Way(Enum):
    """What an operation does in which tokens meet."""

    SUMS = "a product sums over tokens"
    SOFTMAX = "a softmax over tokens"
    FIXED = "fixed weights sum over tokens"
    ATTENTION = "attention"
    JOINS = "joins different tokens"
    NEIGHBOURS = "sums over neighbouring tokens"
    RUNS = "runs over tokens in their order"
    SPECTRUM = "a Fourier transform over tokens"
    GROUPS = "a norm over disjoint groups of tokens"
    REMAKES = "makes new tokens of groups"
    RETURNS = "tokens meet groups that were made of them"
    SPREADS = "what is made of all tokens meets single ones"
    OTHER = "other"


IN_ORDER = {Way.JOINS, Way.NEIGHBOURS, Way.RUNS, Way.SPECTRUM}
"""Ways in which elements meet because of their places, as those of a sequence do."""
MANY_AND_ONE = "what is made of many tokens meets single ones"


@dataclass(frozen=True)
class Meeting:
    """In one operation several indices along an axis met in one element.

    Attributes:
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
        return self.words or self.way.value


@dataclass(frozen=True, eq=False)
class Followed:
    """The coordinates of the outputs of an operation, and what met in it."""

    outputs: tuple[Coordinates | None, ...]
    meetings: tuple[Meeting, ...] = ()


@cache
def _name_of(func: Any) -> str:
    schema = getattr(func, "_schema", None)  # operators of higher order have none
    return str(func if schema is None else schema.name.partition("::")[2]).rstrip("_")


@cache
def is_view(func: Any) -> bool:
    """Whether what an operation returns looks at the memory of its first argument."""
    returns = getattr(getattr(func, "_schema", None), "returns", ())
    aliases = [one.alias_info for one in returns if one.alias_info is not None]
    return _name_of(func) == "_unsafe_view" or (
        bool(aliases) and not any(one.is_write for one in aliases)
    )


@cache
def is_view_in_place(func: Any) -> bool:
    return torch.Tag.inplace_view in getattr(func, "tags", ())


@cache
def _is_pointwise(func: Any) -> bool:
    packet = getattr(torch.ops.aten, _name_of(func), None)
    overloads = packet.overloads() if packet is not None else ()
    tags = {*getattr(func, "tags", ())}.union(*(getattr(packet, one).tags for one in overloads))
    return torch.Tag.pointwise in tags or _name_of(func) in _UNTAGGED


def tensors_of(args: Sequence[Any]) -> list[Tensor]:
    parts = (part if isinstance(part, tuple | list) else (part,) for part in args)
    return [each for part in parts for each in part if isinstance(each, Tensor)]


def _plain(part: Any) -> Hashable:
    """An argument without its numbers: of a tensor the shape and type."""
    if isinstance(part, Tensor):
        return part.shape, part.dtype
    if isinstance(part, tuple | list):
        return tuple(map(_plain, part))
    return id(part) if type(part).__hash__ is None else part


class Done:
    """An operation that ran: its function, arguments and outputs.

    Attributes:
        made_of: the coordinates of the tensors in ``given``, once they are looked up.
        first: the coordinates of its first argument.
    """

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        self.func, self.args, self.kwargs = func, args, kwargs
        self.name = _name_of(func)
        self.given = tensors_of((*args, *kwargs.values()) if kwargs else args)
        self.outs = tensors_of(out if isinstance(out, tuple | list) else (out,))
        if not self.outs:  # of some operations only arguments are results
            self.outs = written_into(func, args, kwargs)
        self.made_of: tuple[Coordinates | None, ...] = ()
        self.first: Coordinates | None = None

    def kind(self) -> Hashable:
        """What it does, but for numbers: its function, shapes of tensors and other arguments."""
        return self.func, *map(_plain, self.args), *map(_plain, self.kwargs.items())

    def argument(self, place: int, default: Any) -> Any:
        return self.args[place] if len(self.args) > place else default

    def returns(self, first: Coordinates | None, meetings: Sequence[Meeting] = ()) -> Followed:
        """What follows where nothing is known but of its first output."""
        return Followed((first,) + (None,) * (len(self.outs) - 1), tuple(meetings))


class Projections:
    """Decides which axis of a source holds channels: that over which projections sum first.

    Where norms and convolutions also take another one for that of channels, the run has to be
    followed again.

    Args:
        settled: the number of the axis of channels by the name of the source, where that is known.

    Attributes:
        known: of how many sources it is decided which axis holds channels.
    """

    def __init__(self, settled: Mapping[str, int] | None = None, tokens: int | None = None):
        self._settled, self._tokens = settled or {}, tokens
        self._sources: dict[Source, None] = {}
        self.known = 0

    def disputed(self) -> dict[str, int]:
        """By source the axis of its channels, where another was asked about first."""
        found = ((source, _may_hold_channels(source)) for source in self._sources)
        return {
            source.name: axes[0].number
            for source, axes in found
            if source.channels is not None and axes != [source.channels] and len(axes) == 1
        }

    def tied(self) -> tuple[str, int, int] | None:
        """An input of which two axes may hold channels, and these; None if there is none."""
        for source in self._sources:
            axes, rank = _may_hold_channels(source), source.rank
            is_said = self._tokens is not None and rank > 1 and self._tokens % rank > 0
            if source.channels is not None and len(axes) > 1 and not is_said:
                low, high = sorted(axis.number for axis in axes[:2])
                return source.name, low, high
        return None

    def are_channels(self, axis: InputAxis, *, in_norm: bool = False) -> bool:
        source: Source = axis.source
        if axis in source.places:
            return False
        if not in_norm:
            source.summed[axis] = None
        elif source.channels in (None, axis) or axis.number == source.rank - 1:
            source.normed[axis] = None  # but no norm of what is known to have channels elsewhere
        self._sources[source] = None
        if self._tokens is not None and source.rank and self._tokens % source.rank == axis.number:
            source.places.add(axis)  # also for who follows on
            return False
        are_ids = source.is_embedded and self._tokens is None  # of words in sentences, say
        are_ids = are_ids and not source.has_fields(axis)
        if source.kind == "ids" and source.rank >= IMAGE_AXES and not are_ids:
            source.kind = "input"  # whole numbers that weights sum over are features
        if source.channels is None and source.kind == "input":
            settled = self._settled.get(source.name, axis.number)
            if settled == axis.number:
                source.channels = axis
                self.known += 1
        return source.channels is axis

    def settle(self, axes: Iterable[InputAxis]) -> None:
        """Take the other axis behind samples for channels where it is said which holds tokens."""
        place = 0 if self._tokens is None else self._tokens % SEQUENCE
        for axis in axes if place else ():
            if axis.source.is_undecided and axis.number == SEQUENCE - place:
                axis.source.channels = axis

    def are_places(self, axes: Iterable[InputAxis]) -> None:
        """Note axes that hold tokens: a later sum over them, as by a head, is not of features."""
        for axis in axes:
            source: Source = axis.source
            if axis not in source.places | source.summed.keys() | source.normed.keys():
                source.places.add(axis)
                self.known += 1

    def meet(self, meetings: Iterable[Meeting]) -> None:
        """Note what met in its order before weights summed over it.

        Of an input with several axes only what a window slid along alone, since an image has two,
        or what was summed up in order.
        """
        lines = (one for one in meetings if one.axis.source.is_line(one.axis))
        self.are_places(one.axis for one in lines if one.way in IN_ORDER)
        self.slide_along(one.axis for one in meetings if one.way in (Way.NEIGHBOURS, Way.RUNS))

    def slide_along(self, axes: Iterable[InputAxis]) -> None:
        """Note the axis of a source along which a window slides, and along no other of it."""
        along = [*axes]
        sources = [axis.source for axis in along]
        self.are_places(axis for axis in along if sources.count(axis.source) == 1)

    def make_features(self, given: Coordinates, weights: Tensor) -> None:
        """Note axes without channels of which single numbers get features from the same weights."""
        if given.shape[-1] > 1:
            return
        key = memory_key(weights)
        for axis, plane in given.planes.items():
            if axis.source.channels is not None:
                continue
            made = axis.source.tables.setdefault(axis, {}).setdefault(key, set())
            made.update(small(plane).unique().int().tolist())
            self.are_places([axis] if len(made) > 1 else [])

    def are_coordinates(self, axis: InputAxis, scored: Collection[InputAxis]) -> bool:
        """Whether scores sum over features along an axis, such as the coordinates of positions.

        Args:
            scored: the axes along which these scores have several queries and several keys.
        """
        # Only where the channels of some queries are known: it may be a sum over tokens as well.
        source: Source = axis.source
        is_last = axis.number == source.rank - 1 and any(x.source is source for x in scored)
        is_said = is_last and self._tokens is not None and self._tokens % source.rank == axis.number
        is_known = any(is_place(each) and each.source.channels for each in scored)
        if source.channels is None and is_last and is_known and not is_said:
            source.channels = axis
            self.known += 1
        return source.channels is axis


def _may_hold_channels(source: Source) -> list[InputAxis]:
    """The axes that weights and norms take for that of channels: one, if they do not disagree."""
    summed, normed = [*source.summed], [*source.normed]
    if both := [axis for axis in summed if axis in source.normed]:
        return both[:1]
    # By custom channels lie last, in a convolution second: so summing over them first decides.
    last = [axis for axis in normed if axis.number == source.rank - 1]
    if last or not summed:
        return last or normed[-1:]
    first, *others = summed
    others = [axis for axis in (*others, *normed) if axis.number > 0]
    is_last = first.number == source.rank - 1
    return [first] if is_last and not normed else [first, *others]


# --- elements one by one


def together(parts: Sequence[Coordinates], shape: Size, how: str) -> Followed:
    """Tensors that are combined element by element."""
    meetings: dict[InputAxis, Meeting] = {}
    planes: Planes = {}
    columns: Planes = {}
    unknown: dict[InputAxis, list[int]] = {}
    met = set[InputAxis]()
    for part in parts:
        for axis, plane in part.columns.items():
            spread = plane.expand(shape)
            columns[axis] = torch.maximum(columns[axis], spread) if axis in columns else spread
    for part in (one.expanded(shape) for one in parts):
        before = {**planes}
        for axis, plane in part.planes.items():
            if axis not in planes:
                planes[axis] = plane
                continue
            have_met = axis in met, axis in part.met
            found = merged(planes[axis], plane, columns.get(axis), have_met)
            if found.meet or found.spread or found.weighed:
                way = Way.SPREADS if found.spread else Way.OTHER
                way = Way.JOINS if found.meet else way
                meetings[axis] = Meeting(axis, way, how)
            planes[axis] = found.plane.expand(shape)
            if found.meet and (pair := pair_of(before, part.planes, axis)):  # as scores are
                planes[axis], columns[axis] = pair
            elif found.meet and not are_each_once(before | part.planes | planes, axis):
                planes[axis] = _around_places(found.plane, axis, shape)
                unknown[axis] = varying(found.plane)
            if found.meet:  # which has the index of one of them
                met.add(axis)
        met |= part.met
    for axis in [axis for axis in planes if axis.source.before]:
        _meet_before(axis, parts, planes, meetings, how)
    for axis in [axis for axis in planes if len(parts) > 1 and is_sent(planes, axis)]:
        meetings.setdefault(axis, Meeting(axis, Way.JOINS, how))
        del planes[axis]
    _lay_out_many(planes, unknown, shape)
    made = set_in_place(Coordinates(shape, planes, columns, frozenset(met)))
    return Followed((made,), tuple(meetings.values()))


def _are_many(plane: Tensor) -> bool:
    return bool((small(plane) == MANY).all())


def _lay_out_many(planes: Planes, along: Mapping[InputAxis, list[int]], shape: Size) -> None:
    """Lay out what is made of several tokens each, where it has more places than there are tokens.

    Such as the sums of a sequence with itself in another order, twice.
    """
    for axis, dims in along.items():
        places = [dim for dim in dims if dim < -1]  # features lie last
        is_more = prod(shape[dim] for dim in places) > axis.size
        if is_more and axis in planes and _are_many(planes[axis]):
            lay_out(planes, axis, places, shape)


def _around_places(plane: Tensor, axis: InputAxis, shape: Size) -> Tensor:
    """One token for every place where there are as many in a row as tokens; else many in each."""
    along = varying(plane)
    if len(along) == 1 and shape[along[0]] == axis.size:
        return counted(shape, along[0], plane.device)
    return torch.full((), MANY, device=plane.device).expand(shape)


def _meet_before(
    axis: InputAxis,
    parts: Sequence[Coordinates],
    planes: Planes,
    meetings: dict[InputAxis, Meeting],
    how: str,
) -> None:
    """What is made of several tokens is added to tokens that it may be made of."""
    # Slots that are added to the tokens that they are made of are tokens in the same places.
    before = all_before(axis)
    there = [
        [each for each, plane in part.planes.items() if bool((small(plane) != NONE).any())]
        for part in parts
    ]
    here = {each for axes in there if axis in axes for each in axes}
    met = [each for axes in there if axis not in axes for each in axes if each in before - here]
    if axis.source.kind != "slots":
        for each in met:
            meetings.setdefault(each, Meeting(each, Way.RETURNS))
    elif met:
        if not bool((small(planes[axis]) == small(planes[met[0]])).all()):
            meetings[met[0]] = Meeting(met[0], Way.JOINS, how)
        del planes[axis]


def same_places(like: Coordinates, shape: Size) -> Coordinates | None:
    """The coordinates of a tensor whose tokens lie where those of another do, if they can."""
    # Sizes may differ only along axes on which no index changes.
    planes = {axis: small(plane) for axis, plane in like.planes.items()}
    if len(shape) != len(like.shape) or any(
        size not in (1, wanted)
        for plane in planes.values()
        for size, wanted in zip(plane.shape, shape, strict=True)
    ):
        return None
    return Coordinates(shape, {axis: plane.expand(shape) for axis, plane in planes.items()})


def of_all(given: Coordinates, shape: Size) -> Coordinates:
    """The coordinates of what may be made of all tokens of another tensor, each sample apart."""
    planes = {}
    for axis in given.positions:
        plane = given.planes[axis]
        sample, several = reduced(plane, range(1, plane.ndim))
        if plane.ndim > 2 and shape[:1] == plane.shape[:1] and not several:
            planes[axis] = sample.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
        else:
            one = MANY if axis.size > 1 else 0.0
            planes[axis] = torch.full((), one, device=plane.device).expand(shape)
    return Coordinates(shape, planes)


def in_places(made: Coordinates, dims: Collection[int]) -> Coordinates:
    """The same, with places of many tokens each along dimensions where nothing varies."""
    varied = {k for axis in made.positions for k in varying(made.planes[axis])}
    places = [k for k in dims if k not in varied and made.shape[k] > 1]
    many = [axis for axis in made.positions if _are_many(made.planes[axis])]
    if not places or not many:
        return made
    planes = dict(made.planes)
    for axis in many:
        lay_out(planes, axis, places, made.shape)
    return Coordinates(made.shape, planes)


# --- axes reduced

OF_SCORES = "numbers made of scores are taken for tokens"


def summed(
    given: Coordinates, dims: Sequence[int], keepdim: bool, shape: Size
) -> tuple[Coordinates, tuple[Meeting, ...]]:
    """A tensor whose axes ``dims`` are reduced to one number each."""
    # A meeting of all tokens is left to what does something with the one number.
    dims = [dim % max(len(given.shape), 1) for dim in dims]
    pooled = [axis for axis, plane in given.planes.items() if reduced(plane, dims)[1]]
    left = [k for k in range(len(given.shape)) if k not in dims]
    kept = left if not keepdim else list(range(len(shape)))

    def fold(plane: Tensor) -> Tensor:
        plane, _ = reduced(plane, dims)
        for dim in sorted(dims, reverse=True):
            plane = plane.narrow(dim, 0, 1)
            plane = plane if keepdim else plane.squeeze(dim)
        return plane.expand(shape)

    made = given.moved(fold, shape)
    planes, meetings = dict(made.planes), list[Meeting]()
    for axis in pooled:
        if is_place(axis) and (own := _around_each(given.planes[axis], axis, dims)) is not None:
            planes[axis] = fold(own)
            meetings.append(Meeting(axis, Way.NEIGHBOURS))
    met = {one.axis for one in meetings}
    pooled = [axis for axis in pooled if axis not in met]
    still = [k for k in left if any(_are_of_each(given.planes[axis], k) for axis in pooled)]
    for axis in () if still else filter(is_place, pooled):
        each = [k for k in left if varies(given.planes[axis], k)]
        if each:
            meetings.append(Meeting(axis, words="different features sum different tokens"))
            along = [kept.index(k) for k in each if k < len(given.shape) - 1]  # features lie last
            lay_out(planes, axis, along, shape)
    if still and any(map(is_place, pooled)):
        planes = {axis: plane for axis, plane in planes.items() if axis not in pooled}
        device = given.planes[pooled[0]].device
        pools = [axis for axis in pooled if is_place(axis)]
        words = "a sum makes new tokens of groups"
        meetings += [Meeting(axis, Way.REMAKES, words) for axis in pools]
        windows: dict[int, Windows] = {kept.index(k): {} for k in still}
        if len(still) == 1:
            lines = {axis: small(given.planes[axis]).movedim(still[0], 0) for axis in pools}
            of_each = {axis: windows_of(line.flatten(1)) for axis, line in lines.items()}
            windows[kept.index(still[0])] = of_each
        planes |= new_positions(pooled, windows, shape, "groups of tokens", device)
    columns = made.columns
    if not all(map(counts_samples, filter(is_place, pooled))):
        # Scores that are summed over queries are numbers of the keys.
        keys = {axis: plane for axis, plane in columns.items() if bool((plane >= 0).any())}
        planes, columns = planes | keys, {}
        meetings += [Meeting(axis, Way.JOINS, OF_SCORES) for axis in keys]
    return Coordinates(shape, planes, columns), tuple(meetings)


def _are_of_each(plane: Tensor, dim: int) -> bool:
    """Whether every place along an axis has tokens of its own, as groups have and features not."""
    places = small(plane).movedim(dim, 0).flatten(1)
    return 1 < len(places) == len(places.unique(dim=0))


def _around_each(plane: Tensor, axis: InputAxis, dims: Sequence[int]) -> Tensor | None:
    """The tokens around each of which there is a group along ``dims``; None if there are others."""
    along = [k for k in range(plane.ndim) if k not in dims and varies(plane, k)]
    if len(along) != 1 or plane.shape[along[0]] != axis.size:
        return None
    own = counted(plane.shape, along[0], plane.device)
    is_there = (small(plane) == small(own)).float().amax(dim=[*dims])
    return own if bool(is_there.all()) else None


Windows = dict[InputAxis, tuple[Tensor, Tensor] | None]


def new_positions(
    before: Sequence[InputAxis],
    dims: Mapping[int, Windows],
    shape: Size,
    name: str,
    device: torch.device,
) -> Planes:
    """Positions along some axes, each with what is known of the places they are made of."""
    source = Source(name, before=frozenset(before), kind="made")
    return {
        InputAxis(source, dim, shape[dim], known_windows(windows)): counted(shape, dim, device)
        for dim, windows in sorted(dims.items())
    }


def known_windows(windows: Windows) -> dict[InputAxis, tuple[Tensor, Tensor]]:
    """The windows of new positions; none unless that along every axis is known."""
    known = {axis: one for axis, one in windows.items() if one is not None}
    return known if len(known) == len(windows) else {}


# --- products summed over an axis


def product(  # noqa: PLR0912, PLR0915 (axis by axis, case by case)
    left: Coordinates | None,
    right: Coordinates | None,
    shape: Size,
    are_channels: Callable[[InputAxis], bool],
    are_coordinates: Callable[[InputAxis, Collection[InputAxis]], bool] = lambda *_: False,
) -> Followed:
    """A matrix product ``*batch time inner`` by ``*batch inner read``."""
    rows = left.planes if left is not None else {}
    reads = right.planes if right is not None else {}
    planes: Planes = {}
    columns: Planes = {}
    slots: dict[int, Planes] = {}
    pooled: dict[InputAxis, set[int]] = {}
    grouped_sums: dict[InputAxis, tuple[int, Tensor]] = {}
    meetings: list[Meeting] = []

    def meet(axis: InputAxis, way: Way = Way.OTHER, words: str = "") -> None:
        meetings.append(Meeting(axis, way, words))

    def inner(axis: InputAxis, lost: Tensor, kept: Tensor | None, dim: int, other: Any) -> None:
        """An axis that changes along what is summed over, in one of both factors."""
        if kept is not None and bool((kept >= 0).any()):
            planes[axis] = kept
            meet(axis, Way.SUMS)
        elif reduced(lost, [-3 - dim])[1]:
            both = _side_by_side(axis, rows if dim == -1 else reads, dim)
            planes[axis] = both.planes.get(axis, torch.full((), MANY, device=device))
            columns.update({axis: line.expand(shape) for axis, line in both.columns.items()})
            if _are_many(planes[axis]):
                pooled[axis] = {*varying(lost)} - {dim}
            meet(axis, Way.RUNS, "a projection sums channels of different tokens")
        elif other is not None:
            planes[axis] = torch.full((), MANY, device=device)
        elif has_many_and_one(lost, dim) or not are_channels(axis):
            slots.setdefault(dim, {})[axis] = lost
            meet(axis, Way.FIXED)

    def outer(axis: InputAxis, row: Tensor, read: Tensor) -> None:
        """An axis of both factors over which the product does not sum."""
        found = merged(row, read)
        planes[axis] = found.plane
        if found.meet and (varies(row, -2) or varies(read, -1)):  # scores
            planes[axis], columns[axis] = row, read.expand(shape)
        elif found.meet:
            meet(axis, Way.JOINS, "a product joins different tokens")
        elif found.spread:
            meet(axis, words=MANY_AND_ONE)

    device = next((plane.device for plane in (*rows.values(), *reads.values())), None)
    grouped = groups_of(left, shape) if left is not None and right is None else {}
    made_of = {axis for new in grouped for axis in new.source.before}
    scored = _scored(left, reads, -1)
    for axis in dict.fromkeys((*rows, *reads)):
        if axis in made_of:
            meet(axis, Way.REMAKES, "a projection makes new tokens of disjoint groups")
            continue
        one, other = rows.get(axis), reads.get(axis)
        if has_many_and_one(one, -1) or has_many_and_one(other, -2):
            meet(axis, words=MANY_AND_ONE)
        row, many_rows = reduced(one, [-1]) if one is not None else (None, False)
        read, many_reads = reduced(other, [-2]) if other is not None else (None, False)
        if one is not None and other is not None and many_rows and many_reads:
            # It sums over both: a product of channels, or a pool.
            if is_place(axis) and not are_coordinates(axis, scored):
                planes[axis] = torch.full((), MANY, device=device)
                if (groups := _in_groups(one, other)) is None:
                    meet(axis, Way.SUMS)
                else:
                    grouped_sums[axis] = groups
                    meet(axis, words="a product makes new tokens of groups")
        elif many_rows and one is not None:
            inner(axis, one, read, -1, right)
        elif many_reads and other is not None:
            inner(axis, other, row, -2, left)
        elif row is not None and read is not None:
            outer(axis, row, read)
        else:
            planes[axis] = read if row is None else row  # type: ignore[assignment]
    planes = {axis: plane.expand(shape) for axis, plane in planes.items()} | grouped
    met = {one.axis for one in meetings}
    for axis in [axis for axis in planes if is_sent(planes, axis)]:
        if axis not in met:
            meet(axis, Way.JOINS, "a product joins different tokens")
        del planes[axis]
    for part, dim in ((left, -1), (right, -2)) if left is None or right is None else ():
        for axis, plane in part.columns.items() if part is not None else ():
            if not varies(plane, dim):  # features of pairs
                columns[axis] = reduced(plane, [dim])[0].expand(shape)
    for axis, (dim, number) in grouped_sums.items():
        others = (plane for each, plane in planes.items() if not counts_samples(each))
        if not any(varies(plane, dim) for plane in others):
            del planes[axis]
            new = _slots([axis], dim % len(shape), 1 + int(number.max()), is_known=False)
            planes[new] = number.expand(shape)
    for axis, along in pooled.items():
        lay_out(planes, axis, along, shape)
    for dim, lines in slots.items():
        planes |= _made_by_weights(lines, dim, shape, device, planes)
    before = frozenset[InputAxis]().union(*(one.met for one in (left, right) if one is not None))
    return Followed((Coordinates(shape, planes, columns, before),), tuple(meetings))


def _in_groups(one: Tensor, other: Tensor) -> tuple[int, Tensor] | None:
    """The dimension along which a product sums other tokens, and the number of each of the sums."""
    along = ({*varying(one)} - {-1}) | ({*varying(other)} - {-2})
    if len(along) != 1 or max(along) > -3:
        return None
    (dim,) = along
    numbers = small(one).movedim(dim, 0).flatten(1).unique(dim=0, return_inverse=True)[1]
    return dim, numbers.float().reshape(-1, *[1] * (-1 - dim))


def _made_by_weights(
    lines: Planes, dim: int, shape: Size, device: torch.device | None, kept: Iterable[InputAxis]
) -> Planes:
    """What weights make of tokens along some axes: new positions, or features of those kept."""
    number = token_numbers(lines)
    are_others = any(is_place(x) and not counts_samples(x) and x.size > 1 for x in kept)
    if are_others and number is not None and _overlap(compact(number)):  # all features of a token
        made = {axis: torch.zeros((), device=device).expand(shape) for axis in lines}
        for axis, line in lines.items():
            lay_out(made, axis, {*varying(line)} - {dim}, shape)
        return made
    return slots_of([*lines], dim, shape, device)


def _side_by_side(axis: InputAxis, planes: Planes, dim: int) -> Coordinates:
    """What a sum over features of several tokens is made of, as of a token and the one before."""
    shape = planes[axis].narrow(dim, 0, 1).shape
    others = {each: reduced(plane, [dim])[0].expand(shape) for each, plane in planes.items()}
    lines = small(planes[axis]).movedim(dim, 0).unique(dim=0)
    parts = [Coordinates(shape, others | {axis: x.unsqueeze(dim).expand(shape)}) for x in lines]
    (made,) = together(parts, shape, "").outputs
    assert made is not None  # noqa: S101
    return made


def has_several_tokens(given: Coordinates) -> bool:
    """Whether features in one place are of several tokens, though places are not fewer."""
    inside = [axis for axis in given.positions if varies(given.planes[axis], -1)]
    sources = {axis.source for axis in inside}
    tokens = [axis.size for axis in given.positions if axis.source in sources]
    along = {k for axis in given.positions for k in varying(given.planes[axis])}
    places = {k: size for k, size in enumerate(given.shape[:-1], -len(given.shape)) if size > 1}
    are_fewer = along.issuperset(places) and prod(places.values()) < prod(tokens)
    return bool(inside) and not are_fewer


def _scored(queries: Coordinates | None, keys: Planes, dim: int) -> list[InputAxis]:
    """The axes along which scores have several queries and, by ``dim``, several keys."""
    # The rows of weights are no queries: what is summed over then are keys.
    rows = {} if queries is None or queries.columns else queries.planes
    return [axis for axis in rows if varies(rows[axis], -2) and varies(keys.get(axis), dim)]


def groups_of(given: Coordinates, shape: Size) -> Planes:
    """The positions of groups that become one token each: rows, where none shares a token."""
    # None where rows hold single tokens, or where a token is in several rows.
    places = {axis: plane for axis, plane in given.planes.items() if is_place(axis)}
    inside = [axis for axis, plane in places.items() if reduced(plane, [-1])[1]]
    ahead = list(range(len(given.shape) - 1))
    axes = [axis for axis in inside if reduced(places[axis], ahead)[1]]
    if not axes or any(bool((small(places[axis]) < 0).any()) for axis in axes):
        return {}

    def numbered(those: Sequence[InputAxis]) -> Tensor:
        """One whole number for the indices along several axes, ``row element``."""
        number = torch.zeros((), dtype=torch.long)
        for axis in those:
            number = number * axis.size + places[axis].long().clamp(min=0)
        return number.expand(given.shape).reshape(-1, given.shape[-1])

    token = numbered(axes)
    both = numbered([axis for axis in places if axis not in inside]) * (token.max() + 1) + token
    rows = torch.arange(both.shape[0], device=both.device)[:, None].expand(both.shape)
    pairs = torch.stack([both.flatten(), rows.flatten()], dim=1).unique(dim=0)
    if len(pairs) != len(both.unique()):
        return {}
    number = token.amin(dim=1).unique(return_inverse=True)[1]
    source = Source("a projection", before=frozenset(axes), kind="made")
    size = int(number.max()) + 1
    rows_of = torch.empty(size, dtype=torch.long, device=number.device)
    rows_of[number] = torch.arange(len(number), device=number.device)
    windows: Windows = {}
    for axis in axes:
        found = windows_of(places[axis].expand(given.shape).flatten(0, -2))
        windows[axis] = found and (found[0][rows_of], found[1][rows_of])
    axis = InputAxis(source, len(shape) - 2, size, known_windows(windows))
    return {axis: number.float().reshape(*shape[:-1], 1).expand(shape)}


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
    axes: Sequence[InputAxis],
    dim: int,
    shape: Size,
    device: torch.device | None,
    *,
    is_known: bool = True,
) -> Planes:
    """New positions along ``dim``, each a sum over the tokens along ``axes``, or over some."""
    dim = dim % len(shape)
    return {_slots(axes, dim, shape[dim], is_known=is_known): counted(shape, dim, device)}


def _slots(axes: Sequence[InputAxis], dim: int, count: int, *, is_known: bool) -> InputAxis:
    # One axis for all layers that make such slots. Slots of slots are made of the tokens of these,
    # so that the number of axes does not grow.
    roots = frozenset(
        each
        for axis in axes
        for each in (axis.source.before if axis.source.kind == "slots" else (axis,))
    )
    first = min(roots, key=lambda axis: (axis.source.name, axis.number, axis.size))
    known = first.source.slots
    key = roots, dim, count, is_known
    if key not in known:
        source = Source("slots", before=roots, kind="slots", is_known=is_known)
        known[key] = InputAxis(source, dim, count)
    return known[key]


def has_unknown_places(axis: InputAxis) -> bool:
    """Whether new positions were made of tokens along an axis without it being known of which."""
    made = (new for each in (axis, *all_before(axis)) for new in each.source.slots.values())
    return not all(new.source.is_known for new in made)


def lay_out(planes: Planes, axis: InputAxis, along: Iterable[int], shape: Size) -> None:
    """Replace an axis, whose tokens are no longer told apart, by new positions along dimensions.

    Where there is none to lie along, all is taken to be made of many tokens together.
    """
    device = planes.pop(axis).device
    places = [slots_of([axis], k, shape, device, is_known=False) for k in sorted(along)]
    if not places:
        planes[axis] = torch.full((), MANY, device=device).expand(shape)
    for each in places:
        planes |= each


def _with_rows_apart(given: Coordinates, tokens: Sequence[InputAxis]) -> Coordinates:
    """The same, but where rows of many tokens lie that nothing tells apart, these are positions."""
    planes, rows = dict(given.planes), given.shape[:-1]
    lines = {axis: _of_rows(plane).flatten() for axis, plane in planes.items()}
    apart = [*lines.values(), *(_of_rows(plane).flatten() for plane in given.columns.values())]
    _, group = torch.stack(apart).unique(dim=1, return_inverse=True)
    # Where single tokens have several rows each, these are features, as heads are.
    is_single = torch.stack([lines[axis] for axis in tokens]).ge(0).any(0)
    if group[is_single].bincount(minlength=1).max() > 1:
        return given
    for axis in tokens:
        are_many = lines[axis] == MANY
        inside = group[are_many]
        counts = inside.bincount(minlength=1)
        # Fewer than there are single tokens are class tokens, of which windows have copies.
        if counts.max() <= 1 or len(inside) < is_single.sum():
            continue
        order, firsts = inside.argsort(stable=True), counts.cumsum(0) - counts
        places = torch.arange(len(inside), device=group.device) - firsts[inside[order]]
        number = torch.full(group.shape, NONE, device=group.device)
        number[are_many.nonzero().flatten()[order]] = places.float()
        plane = planes.pop(axis)
        if bool((plane >= 0).any()):
            planes[axis] = compact(plane.where(plane != MANY, NONE))
        new = _slots([axis], 1, int(counts.max()), is_known=False)
        planes[new] = compact(number.reshape(*rows, 1).expand(given.shape))
    same = planes.keys() == given.planes.keys()
    return given if same else Coordinates(given.shape, planes, given.columns, given.met)


def _of_rows(plane: Tensor) -> Tensor:
    """The largest index in every row."""
    return small(plane).amax(-1).expand(plane.shape[:-1])


def varying(plane: Tensor) -> list[int]:
    """The dimensions along which a plane has several indices, counted from the last."""
    return [dim for dim in range(-plane.ndim, 0) if varies(plane, dim)]


# --- convolutions


@dataclass(frozen=True)
class SlidingWindow:
    """The window of a convolution or a pool: one number for each axis behind the second."""

    name: str
    sizes: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    is_transposed: bool = False
    groups: int = 0  # of channels; as many as these for a pool
    is_known: bool = True  # or an output may be made of more than its sizes say

    def follow(
        self, given: Coordinates, shape: Size, are_channels: Callable[[InputAxis], bool]
    ) -> Followed:
        """A convolution or pool over the axes behind the second, which holds channels."""
        planes: Planes = {}
        meetings: list[Meeting] = []
        remade: dict[InputAxis, int] = {}
        behind = range(2, len(shape))
        channels = given.shape[1]
        groups = self.groups or channels
        # What makes fewer tokens along one side of a video makes other ones along all sides.
        made_anew = {
            axis.source
            for axis, plane in given.planes.items()
            if any(self.stride[k - 2] > 1 and varies(plane, k) for k in behind)
        }
        for axis, plane in given.planes.items():
            if groups < channels and has_many_and_one(plane, 1):
                meetings.append(Meeting(axis, words=MANY_AND_ONE))
            if varies(plane, 1) and are_channels(axis):
                axis.source.normed[axis] = None
                continue
            first = _by_group(plane, groups, shape[1])
            if first is None:
                words = f"'{self.name}' sums over tokens as channels"
                meetings.append(Meeting(axis, words=words))
                # A shuffle or a shift lays tokens into channels, but others stay places.
                for dim in [k for k in behind if varies(plane, k)] or [1]:
                    planes |= slots_of([axis], dim, shape, plane.device)
                continue
            places = [k for k in behind if varies(plane, k)]
            wide = [k for k in places if self.sizes[k - 2] > 1]
            # Zeros around tokens belong to none, but what a window makes of both is in their line.
            blank = [k for k in behind if self.sizes[k - 2] > 1 and k not in places]
            first = reduced(first, blank)[0].expand(first.shape) if blank else first
            if not places:  # also where padding is, which has no index
                planes[axis] = small(first).amax(dim=list(behind), keepdim=True).expand(shape)
            elif not (self.is_transposed or axis.source in made_anew):
                planes[axis] = self._shifted(first, wide, shape)
                if wide:
                    words = f"'{self.name}' {Way.NEIGHBOURS.value}"
                    meetings.append(Meeting(axis, Way.NEIGHBOURS, words))
            else:
                remade[axis] = places[0]
                planes |= _patches(plane, axis, places[0], shape)
                overlap = any(self.sizes[k - 2] > self.stride[k - 2] for k in places)
                if not (overlap if self.is_transposed else wide):  # each is made of one
                    continue
                kind = "overlapping" if overlap else "disjoint"
                words = f"'{self.name}' makes new tokens of {kind} groups"
                meetings.append(Meeting(axis, Way.REMAKES, words))
        if remade:
            device = next(iter(given.planes.values())).device
            dims: dict[int, Windows] = {}
            for axis, dim in remade.items():
                windows = self._windows(given.planes[axis], dim, shape[dim])
                dims.setdefault(dim, {})[axis] = windows
            planes |= new_positions([*remade], dims, shape, self.name, device)
        return Followed((Coordinates(shape, planes),), tuple(meetings))

    def _windows(self, plane: Tensor, dim: int, count: int) -> tuple[Tensor, Tensor] | None:
        """The first and the last token in the window of each output; None if it is not known."""
        line = small(plane).flatten()
        if not self.is_known or len(line) != plane.shape[dim]:
            return None
        k = dim - 2
        taps = torch.arange(self.sizes[k], device=line.device) * self.dilation[k]
        outputs = torch.arange(count, device=line.device)[:, None]
        if self.is_transposed:
            steps = outputs + self.padding[k] - taps
            places = torch.where(steps % self.stride[k] == 0, steps // self.stride[k], -1)
        else:
            places = outputs * self.stride[k] - self.padding[k] + taps
        inside = (places >= 0) & (places < len(line))
        return windows_of(line[places.clamp(0, len(line) - 1)].where(inside, NONE))

    def _shifted(self, plane: Tensor, wide: Sequence[int], shape: Size) -> Tensor:
        """The plane of an output whose indices are those of the input plus that of its own tap."""
        for dim in range(2, plane.ndim):
            if plane.stride(dim) == 0:
                sizes = (*plane.shape[:dim], shape[dim], *plane.shape[dim + 1 :])
                plane = plane.narrow(dim, 0, 1).expand(sizes)
                continue
            shift = self._tap(plane, dim) if dim in wide else 0
            behind = [0] * (2 * (plane.ndim - dim - 1))
            pads = [*behind, -shift, shape[dim] - plane.shape[dim] + shift]
            plane = torch.constant_pad_nd(plane, pads, NONE)
        return compact(plane.expand(shape))

    def _tap(self, plane: Tensor, dim: int) -> int:
        """By how much the token of an output is shifted from its index: its own tap."""
        padding = self.padding[dim - 2]
        reach = (self.sizes[dim - 2] - 1) * self.dilation[dim - 2]
        if padding == reach and padding > 0:
            return 0
        count = plane.shape[dim] + 2 * padding - reach
        line = small(plane).amax(dim=[k for k in range(plane.ndim) if k != dim])

        def seen(shift: int) -> tuple[int, int]:
            """How many tokens, which may be mirrored or repeated at the ends; how many in order."""
            if line.numel() == 1:
                return 0, 0
            index = torch.arange(count, device=plane.device) + shift
            inside = line[index[(index >= 0) & (index < line.numel())]]
            there = inside[inside >= 0]
            return len(there.unique()), int((there.diff() == 1).sum())

        options = {reach // 2 - padding: 1, reach - padding: 0}
        if count > int((line >= 0).sum()):
            # A window of even size has two taps in its middle. Where it returns more than there
            # are tokens, the last is cut off as a rule, so that the first is of the first token.
            options[(reach + 1) // 2 - padding] = 2
        return max(options, key=lambda shift: (*seen(shift), options[shift]))


def _patches(plane: Tensor, axis: InputAxis, number: int, shape: Size) -> Planes:
    """Positions of patches that are given as samples, each of several tokens along an axis."""
    if not varies(plane, 0):
        return {}
    apart = small(plane).flatten(1).amax(1).unique(return_inverse=True)[1].float()
    source = Source("patches", before=frozenset((axis,)), kind="made")
    patch = InputAxis(source, number, int(apart.max()) + 1)
    return {patch: apart.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)}


def _by_group(plane: Tensor, groups: int, outputs: int) -> Tensor | None:
    """The plane of a convolution in groups; None where a group holds several tokens."""
    # Every output reads the channels of its own group.
    if small(plane).shape[1] == 1:
        return plane.narrow(1, 0, 1)
    grouped = plane.unflatten(1, (groups, -1))
    line, several = reduced(grouped, [2])
    if several:
        return None
    return line.expand(*grouped.shape[:2], outputs // groups, *grouped.shape[3:]).flatten(1, 2)


# --- the rule of each operation


class Rules:
    """The rule of each operation, over what is known of the tensors of a run."""

    def __init__(self, known: KnownTensors, projections: Projections) -> None:
        self._known, self._projections = known, projections
        self._before = Remembered()

    def followed(self, done: Done) -> Followed:
        """What the outputs of an operation are made of, and the tokens that meet in it."""
        # The same as before where the same operation was done on the same coordinates: those that
        # are equal are one object, so that every layer after the first finds what that one did.
        if not all(map(are_numbers, (*done.given, *done.outs))):  # as an index, which names places
            return self._by_rule(done)
        given = done.made_of
        key = done.kind(), given, self._projections.known
        before: Followed | None = self._before.of(key)
        if before is not None:
            return before
        made = self._by_rule(done)
        same = (
            next((one for one in given if one and out and one.equals(out)), out)
            for out in made.outputs
        )
        found = Followed(tuple(same), made.meetings)
        axes = {axis for one in given if one is not None for axis in one.planes}
        if all(axes >= one.planes.keys() for one in found.outputs if one is not None):
            self._before.add(key, found, (*given, *found.outputs))
        return found

    def _by_rule(self, done: Done) -> Followed:
        made = _without_lost_keys(done.made_of, self._made(done))
        self._projections.meet(made.meetings)
        sent = sent_to_all(done.made_of, made.outputs[0]) if made.outputs else ()
        return Followed(made.outputs, (*made.meetings, *sent))

    def _made(self, done: Done) -> Followed:
        rule = _RULES.get(done.name)
        if rule is not None:
            made = rule(self, done)
            # Rules of one tensor say nothing of weights or statistics that are made of tokens.
            others = done.given[1:] if rule in _OF_ONE else []
            axes = {axis for one in others if (c := self._known.of(one)) for axis in c.planes}
            words = f"'{done.name}' with weights that are made of tokens"
            further = tuple(Meeting(axis, words=words, is_known=False) for axis in axes)
            return Followed(made.outputs, made.meetings + further)
        is_new = is_made_anew(done.name)
        if is_new or _is_pointwise(done.func):
            # What is overwritten has no part in it, but what it is filled with or drawn by has.
            given = done.given[len(written_places(done.func)) :] if is_new else done.given
            given = [] if is_new and done.name not in _MADE_ANEW else given
            parts = [one for one in map(self._known.of, given) if one is not None]
            if not parts:
                return Followed((None,) * len(done.outs))
            self._make_features(done)
            how = f"'{done.name.strip('_')}' {Way.JOINS.value}"
            made = together(parts, done.outs[0].shape, how)
            for meeting in made.meetings:
                self._sum_fields(meeting.axis)
            return Followed(made.outputs * len(done.outs), made.meetings)
        if is_view(done.func):
            return self._moved(done)
        return self._attention(done) if "scaled_dot_product" in done.name else self._unknown(done)

    def _make_features(self, done: Done) -> None:
        """Note single numbers to which a vector of weights is applied, as by a product."""
        # Not those of a line: a few numbers beside a model's tokens are embedded that way, too.
        pairs = [*zip(done.given, done.made_of, strict=True)]
        for weights, made in pairs:
            if made is None and weights.ndim and weights.shape[-1] > 1:
                for _, known in pairs:
                    if known and not any(axis.source.is_line(axis) for axis in known.planes):
                        self._projections.make_features(known, weights)

    def _sum_fields(self, axis: InputAxis) -> None:
        """Take an axis for that of channels where what is added up was looked up field by field."""
        if axis.source.has_fields(axis):
            self._projections.are_channels(axis)

    def _unknown(self, done: Done) -> Followed:
        """An operation without a rule is taken for one that mixes what it is given."""
        parts = [c for one in tensors_of(done.args) if (c := self._known.of(one)) is not None]
        same = next((c for c in parts if c.shape == done.outs[0].shape), None)
        found: dict[InputAxis, list[Tensor]] = {}
        for part in parts:
            for axis, plane in part.planes.items():
                found.setdefault(axis, []).extend(plane.aminmax())
        words = f"'{done.name}', which is not known"
        meetings = [
            Meeting(axis, words=words, is_known=False)
            for axis, ends in found.items()
            if max(ends) > min(ends)
        ]
        lists = [part for part in done.args if isinstance(part, tuple | list)]
        if not any(map(self._known.has, tensors_of(lists))):
            return done.returns(same, meetings)
        # Of lists each output may be made of anything that is given.
        met = {one.axis for one in meetings}
        lines = {
            axis: torch.full_like(ends[0], MANY) if axis in met else ends[0]
            for axis, ends in found.items()
        }
        made = [
            Coordinates(out.shape, {axis: line.expand(out.shape) for axis, line in lines.items()})
            for out in done.outs
        ]
        return Followed(tuple(made), tuple(meetings))

    # elements moved

    def _moved(self, done: Done) -> Followed:
        """Elements moved, as the operation itself moves them, which runs on every plane."""
        # Also views of memory that is not seen, as of tensors that wrap others.
        first, rest = done.args[0], done.args[1:]
        several = isinstance(first, tuple | list)
        is_placed = done.name in _PLACED  # the second in places of the first
        rest = rest[is_placed:]
        parts = first if several else done.args[: 1 + is_placed]
        pairs = [(one, self._known.of(one)) for one in parts]
        found = [c for _, c in pairs if c is not None]
        if not found:
            return self._looked_up(done)
        rest = rest[:1] if done.name == "constant_pad_nd" else rest
        met = frozenset[InputAxis]().union(*(one.met for one in found))
        made = tuple(Coordinates(out.shape, {}, met=met) for out in done.outs)
        for which in ("planes", "columns"):
            for axis in dict.fromkeys(axis for c in found for axis in getattr(c, which)):
                given = [  # zero stands for no index, as between the elements that are moved
                    torch.zeros(one.shape, device=one.device)
                    if c is None or axis not in getattr(c, which)
                    else (getattr(c, which)[axis] - NONE).contiguous()
                    for one, c in pairs
                ]
                out = done.func(*([given] if several else given), *rest, **done.kwargs)
                parts = tensors_of(out if isinstance(out, tuple | list) else (out,))
                for one, part in zip(made, parts, strict=True):
                    plane = part + NONE
                    if done.name == "index_select" and axis in axis.source.transformed:
                        plane = _in_order(plane, axis, done.args[1])
                    getattr(one, which)[axis] = compact(plane)
        made = tuple(map(set_in_place, made))
        return Followed(made, self._chosen(done, made[0]))

    def _deciding(self, done: Done, *, by_ids: bool = False) -> Iterator[tuple[InputAxis, Tensor]]:
        """The planes of the tokens that decide which elements an operation takes or writes into.

        Of those, too, whose ids name these ``by_ids``.
        """
        # Each is laid out as the elements that it names.
        for index, behind in _indices(done):
            are_ids = by_ids and index.dtype is not torch.bool
            by = self._known.of(index) if are_ids or self._known.decides(index) else None
            for axis, plane in (by.planes if by is not None else {}).items():
                named = plane[index] if index.dtype is torch.bool else plane
                yield axis, named.reshape(*named.shape, *(1,) * behind)

    def _chosen(self, done: Done, *taken: Coordinates | None) -> tuple[Meeting, ...]:
        """Elements that are taken, or written into, because of what other tokens hold."""
        meetings: dict[InputAxis, Meeting] = {}
        for axis, chosen in self._deciding(done):
            planes = [one.planes.get(axis) for one in taken if one is not None]
            others = (
                plane is not None and bool(((chosen >= 0) & (plane >= 0) & (chosen != plane)).any())
                for plane in planes
            )
            if is_place(axis) and (bool((chosen == MANY).any()) or any(others)):
                meetings[axis] = Meeting(axis, words="tokens choose one another", chooses=True)
        return tuple(meetings.values())

    def _copied(self, done: Done) -> Followed:
        source = self._known.of(done.args[1])
        return Followed((None if source is None else source.expanded(done.outs[0].shape),))

    def _kept(self, done: Done) -> Followed:
        first = done.first
        return done.returns(first if first and first.shape == done.outs[0].shape else None)

    def _embedded(self, done: Done) -> Followed:
        if self._known.of(done.args[0]) is None:
            return self._looked_up(done)
        has_ids = self._known.of(done.args[1]) is not None  # of tokens that are looked up
        return self._unknown(done) if has_ids else self._moved(done)

    def _looked_up(self, done: Done) -> Followed:
        """What ids, or tokens that decide, name in a table or in zeros of no input."""
        shape, meetings, parts = done.outs[0].shape, self._chosen(done), list[Coordinates]()
        for axis, plane in self._deciding(done, by_ids=True):
            axis.source.is_embedded = True
            place, last = plane.aminmax()
            if place == last and place >= 0:
                tables = axis.source.tables.setdefault(axis, {})
                tables.setdefault(memory_key(done.args[0]), set()).add(int(place))
            parts.append(Coordinates(shape, {axis: small(plane).expand(shape)}))
        made = together(parts, shape, f"'{done.name}' {Way.JOINS.value}")
        return done.returns(made.outputs[0] if parts else None, (*meetings, *made.meetings))

    def _scattered(self, done: Done) -> Followed:
        """Numbers written to places that an index names, or added up there."""
        is_by_places = "index_put" in done.name or done.name == "masked_scatter"
        args, place = done.args, 2 if is_by_places else 3
        source = args[place] if isinstance(args[place], Tensor) else None
        into, found = self._known.of(args[0]), self._known.of(source)
        adds = bool(done.argument(3, False)) if place == 2 else done.name in _SUMMING
        adds = adds or "reduce" in done.kwargs
        if done.name == "scatter" and not adds and into is found is None:  # as of one-hot vectors
            return self._looked_up(done)

        def run(base: Tensor, new: Tensor) -> Tensor:
            """What the operation makes of a plane, and of one that is written into it."""
            base = base.expand(args[0].shape).clone(memory_format=torch.contiguous_format)
            if source is None:
                return done.func(base, *args[1:place], NONE)
            new = new.expand(source.shape).contiguous()
            if adds and done.name.startswith("scatter"):
                return base.scatter_add(args[1], args[2], new)
            return done.func(base, *args[1:place], new, *args[place + 1 :])

        planes, meetings = {}, []
        unknown = list[InputAxis]()
        shape, nothing = done.outs[0].shape, torch.full((), NONE, device=args[0].device)
        by_index = place == 2 and isinstance(args[1], Sequence)
        along = [k for k, x in enumerate(args[1]) if x is not None] if by_index else [args[1]]
        # Ids that are written over by constants keep their places.
        stays = source is None if adds else found is None and not are_numbers(done.outs[0])
        for axis in dict.fromkeys(axis for one in (into, found) if one for axis in one.planes):
            base, new = (
                nothing if one is None else one.planes.get(axis, nothing) for one in (into, found)
            )
            if stays:
                planes[axis] = base
            elif not adds:
                planes[axis] = run(base, new)
            else:
                planes[axis], several = _added(base, new, run)
                if several and is_place(axis):
                    words = f"'{done.name}' sums what lands in one place"
                    meetings.append(Meeting(axis, words=words))
                    unknown.append(axis)
        nowhere = Size(())  # only their planes are asked for
        left = None if into is None else into.moved(lambda p: _named(done, p), nowhere)
        fits = args[2].shape if done.name.startswith("scatter") else ()
        part = tuple(map(slice, fits))
        written = None if found is None else found.moved(lambda p: p[part], nowhere)
        meetings += self._chosen(done, left, written)
        # Scores stay those of their keys where constants or scores are written into them, and where
        # they are written into constants; tokens that are written there are no scores.
        there = [one for one in (into, found) if one is not None and one.planes]
        are_scores = not adds and all(one.columns for one in there)
        keys = dict.fromkeys(axis for one in there for axis in one.columns) if are_scores else {}
        columns = {}
        for axis in keys:
            base, new = (
                nothing if one is None else one.columns.get(axis, nothing) for one in (into, found)
            )
            columns[axis] = run(base, new)
        columns = {axis: plane for axis, plane in columns.items() if bool((plane != NONE).any())}
        for axis in unknown:
            lay_out(planes, axis, along, shape)
        return Followed((Coordinates(shape, planes, columns),), tuple(meetings))

    # axes that stay, along which tokens meet

    def _along(self, done: Done) -> Followed:
        """A softmax or a running total, which let elements along an axis meet."""
        given, words = done.first, f"'{done.name}' over tokens"
        way, dim = Way.SOFTMAX if done.name in _SOFTMAXES else Way.RUNS, done.args[1]
        if given is not None and way is Way.SOFTMAX:
            self._projections.are_places(x for x, p in given.columns.items() if varies(p, dim))
        meetings = [
            Meeting(axis, way, "" if way is Way.SOFTMAX else words)
            for axis, plane in (given.planes.items() if given is not None else ())
            if varies(plane, dim % max(plane.ndim, 1))
        ]
        return Followed((given,) * len(done.outs), tuple(meetings))

    def _with_places(self, tensor: Tensor, given: Coordinates, features: int = -1) -> Coordinates:
        """The coordinates of a tensor of which weights or norms show which axis holds features.

        What lies along the others then are places, as of what learnt queries read.
        """
        tokens = [axis for axis in given.positions if not counts_samples(axis)]
        if not any(bool((small(given.planes[axis]) == MANY).any()) for axis in tokens):
            return given
        last = given.moved(lambda p: p.movedim(features, -1), tensor.movedim(features, -1).shape)
        made = _with_rows_apart(last, tokens)
        if made is not last:
            given = made.moved(lambda p: p.movedim(-1, features), tensor.shape)
            self._known.know(tensor, given)
        return given

    def _normalised(self, done: Done) -> Followed:
        given, ndim = done.first, done.outs[0].ndim
        channels: Sequence[int] = ()  # where norms over images have them, the rest are places
        if done.name in _BATCH_NORMS:  # with stored statistics every element by itself
            if not next((one for one in done.args if isinstance(one, bool)), True):
                return self._kept(done)
            dims = [dim for dim in range(ndim) if dim != 1]
        elif done.name == "native_group_norm":
            dims, channels = list(range(1, ndim)), [1]
        else:
            dims = channels = list(range(ndim - len(done.args[1]), ndim))
        if given is None:
            return done.returns(None)
        if dims == [ndim - 1]:
            given = self._with_places(done.args[0], given)
        meetings = {}
        lines = given.planes.values()
        if len(channels) > 1 and not all(any(varies(x, dim) for x in lines) for dim in channels):
            channels = []  # but the features of each token, which no axis varies along
        for axis, plane in given.planes.items():
            if reduced(plane, dims)[1] and not (
                any(varies(plane, dim) for dim in channels)
                and self._projections.are_channels(axis, in_norm=True)
            ):
                meetings[axis] = Meeting(axis, words="a norm over tokens")
            elif is_place(axis) and any(has_many_and_one(plane, dim) for dim in dims):
                meetings[axis] = Meeting(axis, words=MANY_AND_ONE)
        if meetings and dims == [ndim - 1]:
            for new in groups_of(given, given.shape):
                meetings |= {axis: Meeting(axis, Way.GROUPS) for axis in new.source.before}
        return done.returns(given, [*meetings.values()])

    def _transformed(self, done: Done) -> Followed:
        """A Fourier transform; the place of a frequency is called by the token in its place."""
        given, shape = done.first, done.outs[0].shape
        if given is None:
            return Followed((None,))
        dims = [dim % len(shape) for dim in done.args[1]]
        planes, meetings, remade = {}, [], dict[tuple[int, ...], list[InputAxis]]()
        for axis, plane in given.planes.items():
            along = [dim for dim in dims if varies(plane, dim)]
            frames = tuple(k for k in range(len(shape)) if k not in along and varies(plane, k))
            is_resized = any(plane.shape[dim] != shape[dim] for dim in along)
            if along:
                # Windows that overlap are not yet tokens, as in the spectrogram of a sound.
                is_new = is_resized and frames and _overlap(plane)
                way = Way.REMAKES if is_new else Way.SPECTRUM
                meetings.append(Meeting(axis, way, Way.SPECTRUM.value))
            if along and not frames:
                planes[axis] = _in_places(plane, axis, along, shape)
            elif is_resized:  # each with frequencies of its own
                remade.setdefault(frames, []).append(axis)
            else:  # also where zeros were
                still = [dim for dim in dims if dim not in along]
                planes[axis] = reduced(plane, still)[0].expand(shape)
        for frames, axes in remade.items():
            device = given.planes[axes[0]].device
            dims_of: dict[int, Windows] = {dim: {} for dim in frames}
            planes |= new_positions(axes, dims_of, shape, "a Fourier transform", device)
        return Followed((Coordinates(shape, planes),), tuple(meetings))

    def _sorted(self, done: Done) -> Followed:
        if done.first is None:
            return self._unknown(done)
        values, places = done.outs
        dim = done.argument(2 if done.name == "topk" else 1, -1)
        made = done.first.moved(lambda p: p.gather(dim, places), values.shape)
        lines = [plane for axis, plane in done.first.planes.items() if is_place(axis)]
        features = [k for k in range(values.ndim) if not any(varies(x, k) for x in lines)]
        for axis, plane in [*made.planes.items()]:
            if any(varies(plane, k) for k in features):  # of which each has an order of its own
                lay_out(made.planes, axis, varying(done.first.planes[axis]), values.shape)
        order, _ = summed(done.first, [dim], True, places.narrow(dim, 0, 1).shape)
        meetings = [
            Meeting(axis, words=f"'{done.name}' orders tokens", chooses=True)
            for axis, plane in done.first.planes.items()
            if varies(plane, dim)
        ]
        return Followed((made, order.expanded(places.shape)), tuple(meetings))

    def _gated(self, done: Done) -> Followed:
        """A gated linear unit: the second half of an axis gates the first."""
        given, shape, dim = done.first, done.outs[0].shape, done.argument(1, -1)
        if given is None:
            return done.returns(None)
        gated = given.moved(lambda plane: plane.chunk(2, dim)[0], shape)
        gate = given.moved(lambda plane: plane.chunk(2, dim)[1], shape)
        return together([gated, gate], shape, f"'glu' {Way.JOINS.value}")

    # axes that are summed over

    def _reduced(self, done: Done) -> Followed:
        given, shape = done.first, done.outs[0].shape
        if given is None:
            return Followed((None,) * len(done.outs))
        dims = done.argument(2 if "norm" in done.name else 1, None)
        dims = [dims] if isinstance(dims, int) else dims
        if not isinstance(dims, list | tuple) or not dims:
            dims = list(range(len(given.shape)))
        made, meetings = summed(given, dims, len(shape) == len(given.shape), shape)
        for axis, plane in given.planes.items():
            if reduced(plane, [dim % plane.ndim for dim in dims])[1]:
                self._sum_fields(axis)
                if not is_place(axis):
                    made.planes.pop(axis, None)
                    made.columns.pop(axis, None)
        return Followed((made,) * len(done.outs), meetings)

    def _product(self, done: Done) -> Followed:
        args, shape = done.args, done.outs[0].shape
        added = None
        if done.name in _ADDING:
            added, args = self._known.of(args[0]), args[1:]
        left, right = map(self._known.of, args[:2])
        sizes = list(shape)
        if args[0].ndim == 1:
            sizes.insert(0, 1)
            if left is not None:
                left = left.moved(lambda p: p.unsqueeze(0), args[0].unsqueeze(0).shape)
        if args[1].ndim == 1:
            sizes.append(1)
            if right is not None:
                right = right.moved(lambda p: p.unsqueeze(-1), args[1].unsqueeze(-1).shape)
        elif done.name == "linear" and right is not None:
            right = right.moved(lambda p: p.mT, args[1].mT.shape)
        asked = self._projections
        if left is not None and right is None:
            asked.make_features(left, args[1])
            left = self._with_places(args[0], left)
        made = product(left, right, Size(sizes), asked.are_channels, asked.are_coordinates)
        found = made.outputs[0]
        if found is not None and len(sizes) > len(shape):
            found = found.moved(lambda p: p.reshape(shape), shape)
        if added is None or found is None:
            return Followed((found,), made.meetings)
        both = together([found, added.expanded(shape)], shape, "a sum joins tokens")
        return Followed(both.outputs, made.meetings + both.meetings)

    def _attention(self, done: Done) -> Followed:
        first, value, shape = done.first, self._known.of(done.args[2]), done.outs[0].shape
        if first is not None:
            made = first.moved(lambda p: p[..., :1].expand(shape), shape)
            both = (first, value) if value is not None else (first,)
            key = self._known.of(done.args[1])
            scored = _scored(first, key.planes if key is not None else {}, -2)
            for axis in (x for x, plane in first.planes.items() if varies(plane, -1)):
                self._projections.are_coordinates(axis, scored)
            self._projections.are_places(scored)
            along = (axis for c in both for axis, plane in c.planes.items() if varies(plane, -2))
            meetings = [Meeting(x, Way.ATTENTION) for x in dict.fromkeys(along)]
            for axis, plane in value.planes.items() if value is not None else ():
                many = small(plane) == MANY
                if is_place(axis) and bool((many.any(-2) & ~many.all(-2)).any()):
                    meetings.append(Meeting(axis, words=MANY_AND_ONE))
            return done.returns(made, meetings)
        if value is None:
            return self._unknown(done)
        planes, meetings = {}, []
        for axis, plane in value.planes.items():  # queries of no input read many tokens each
            line, several = reduced(plane, [-2, -1])
            planes[axis] = line[..., :1, :1].expand(shape)
            if several and not self._projections.are_channels(axis):
                meetings.append(Meeting(axis, Way.ATTENTION))
        return done.returns(Coordinates(shape, planes), meetings)

    def _convolved(self, done: Done) -> Followed:
        given, weight, _, *steps, is_transposed, _, groups = done.args[:9]
        shape, places = done.outs[0].shape, weight.ndim - 2
        stride, padding, dilation = ((list(step) * places)[:places] for step in steps)
        if done.first is None or given.ndim != len(shape) or given.ndim < 3:
            return self._unknown(done)
        first = self._with_places(given, done.first, 1)
        if given.shape[1] == 1:  # single numbers that get features
            planes = first.planes.items()
            places = range(2, given.ndim)
            self._projections.slide_along(x for x, p in planes if any(varies(p, k) for k in places))
        window = SlidingWindow(
            "convolution",
            weight.shape[2:],
            stride,
            padding,
            dilation,
            is_transposed=is_transposed,
            groups=groups,
        )
        return window.follow(first, shape, self._projections.are_channels)

    def _pooled(self, done: Done) -> Followed:
        """A pool, or positions that are made anew by interpolation."""
        first, args, shape = done.first, done.args, done.outs[0].shape
        name = done.name.partition("_with")[0].strip("_")
        is_single = f"{len(shape) - 1}d" in name  # one sample, without an axis of samples
        if is_single and first is not None:
            first = first.moved(lambda p: p[None], Size((1, *first.shape)))
            shape = Size((1, *shape))
        places = len(shape) - 2
        if first is None or len(first.shape) != len(shape) or f"{places}d" not in name:
            return self._unknown(done)
        options: list[Sequence[int]] = [[1], [2], [0], [1]]  # a position of its own
        if is_resized := done.name in _RESIZES:
            options = [[1 if "nearest" in name else 2], [1], [0], [1]]
        elif "adaptive" not in name:
            options = [args[1], args[1], [0], [1]]
            for k in range(2, min(len(args), 5)):
                if isinstance(args[k], list | tuple) and args[k]:
                    options[k - 1] = args[k]
        sizes, stride, padding, dilation = ((list(one) * places)[:places] for one in options)
        if "adaptive" in name:
            pairs = zip(first.shape[2:], shape[2:], strict=True)
            stride = [1 if before == after else 2 for before, after in pairs]
        is_known = not is_resized and "adaptive" not in name
        window = SlidingWindow(
            name,
            sizes,
            stride,
            padding,
            dilation,
            is_transposed=is_resized,
            is_known=is_known,
        )
        whole = [k for k in range(2, len(shape)) if shape[k] == 1]
        others = [k - 2 for k in range(2, len(shape)) if k not in whole]
        if not is_resized and all(sizes[k] == stride[k] == 1 for k in others):
            one, meetings = summed(first, whole, True, shape)
            made = Followed((one,), meetings)
        else:
            made = window.follow(first, shape, self._projections.are_channels)
        found = made.outputs[0]
        if is_single and found is not None:
            found = found.moved(lambda p: p[0], shape[1:])
        return done.returns(found, made.meetings)


def sent_to_all(
    parts: Sequence[Coordinates | None], made: Coordinates | None
) -> tuple[Meeting, ...]:
    """What is made of all tokens along an axis and gets as many places, each of no other token."""
    if made is None:
        return ()
    pooled = [axis for axis in made.positions if _are_many(made.planes[axis])]
    before = [one.shape[::-1] for one in parts if one is not None]
    found = []
    for axis in pooled:
        whole = prod(x.size for x in pooled if x.source is axis.source)
        new = (
            -1 - dim
            for dim, size in enumerate(made.shape[::-1])
            if size > 1 and size in (axis.size, whole)
            if all(dim >= len(one) or one[dim] == 1 for one in before)
        )
        if any(not any(varies(plane, dim) for plane in made.planes.values()) for dim in new):
            words = "what is made of all tokens is sent to as many places"
            found.append(Meeting(axis, Way.SPREADS, words))
    return tuple(found)


def _without_lost_keys(given: Sequence[Coordinates | None], made: Followed) -> Followed:
    """What is made of scores of one key, or of all keys together, are numbers of the query."""
    outputs = [
        Coordinates(one.shape, one.planes) if one and one.columns and not one.is_map else one
        for one in made.outputs
    ]
    known = {axis for one in outputs if one for axis in one.columns}
    known |= {one.axis for one in made.meetings}
    before = (axis for one in (*given, *made.outputs) if one for axis in one.columns)
    lost = (axis for axis in dict.fromkeys(before) if axis.size > 1 and axis not in known)
    further = tuple(Meeting(axis, Way.JOINS, OF_SCORES) for axis in lost)
    return Followed(tuple(outputs), made.meetings + further)


def _indices(done: Done) -> list[tuple[Tensor, int]]:
    """The tensors that name places in an operation, and how many axes lie behind these places."""
    args, name = done.args, done.name
    if name in ("take", "embedding"):
        return [(args[1], int(name == "embedding"))]
    if name in ("gather", "scatter", "scatter_add", "scatter_reduce"):
        return [(args[2], 0)]
    if name == "masked_scatter":
        return [(args[1], 0)]
    if name.startswith("index_") and name != "index_put":
        return [(args[2], args[0].ndim - args[1] % args[0].ndim - 1)]
    if name != "index" and "index_put" not in name:
        return []
    given = list(args[1])
    named = [k for k, index in enumerate(given) if index is not None]
    covered = sum(given[k].ndim if given[k].dtype is torch.bool else 1 for k in named)
    return [(given[k], args[0].ndim - named[0] - covered) for k in named]


def _named(done: Done, plane: Tensor) -> Tensor:
    """What lies in the places that an index names."""
    if done.name == "masked_scatter":
        return plane.masked_select(done.args[1])
    if "index_put" in done.name:
        return torch.ops.aten.index(plane, list(done.args[1]))
    dim, index = done.args[1:3]
    named = torch.gather if done.name.startswith("scatter") else torch.index_select
    return named(plane, dim, index)


def _overlap(plane: Tensor) -> bool:
    """Whether an index is in several places."""
    short = small(plane)
    there = short[short >= 0]
    return len(there.unique()) < len(there)


def _in_places(plane: Tensor, axis: InputAxis, dims: Sequence[int], shape: Size) -> Tensor:
    """The plane of a transform along some axes; one back has the tokens of that forth."""
    line, _ = reduced(plane, [k for k in range(plane.ndim) if k not in dims])
    own = line.reshape([line.shape[dim] for dim in dims])
    lines = axis.source.transformed.setdefault(axis, [])
    line = next((one for one in lines if _begin_alike(one, own)), own)
    lines += [line] if line is own else []
    length = Size(shape[dim] for dim in dims)
    # Zeros that were laid around tokens stay places of none, but others are of all of them.
    made = torch.full(length, NONE if own.shape == length else MANY, device=plane.device)
    both = tuple(slice(min(sizes)) for sizes in zip(made.shape, line.shape, strict=True))
    made[both] = line[both].where(line[both] >= 0, made[both])
    return made.reshape([shape[k] if k in dims else 1 for k in range(len(shape))]).expand(shape)


def _begin_alike(one: Tensor, other: Tensor) -> bool:
    """Whether the known tokens of two lines are the same as far as both go, of which the first."""
    if one.ndim != other.ndim:
        return False
    both = tuple(slice(min(sizes)) for sizes in zip(one.shape, other.shape, strict=True))
    are_known = (one[both] >= 0) & (other[both] >= 0)
    return bool(are_known.any() and (one[both] == other[both])[are_known].all())


def _in_order(plane: Tensor, axis: InputAxis, dim: int) -> Tensor:
    """As many places of a transform as it was given tokens, wherever they lie, are these tokens."""
    lines = axis.source.transformed[axis]
    tokens = lines[0][lines[0] >= 0]
    is_new = plane.shape[dim] == len(tokens) and bool((plane == MANY).any())
    if not is_new or len(lines) > 1:
        return plane
    sizes = [1] * plane.ndim
    sizes[dim] = len(tokens)
    return tokens.reshape(sizes).expand(plane.shape)


def _added(
    base: Tensor, new: Tensor, run: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, bool]:
    """The plane of numbers that are added up in places, and whether several indices met there."""
    # Numbers are equal if the mean of their squares is the square of their mean.
    count, total, squares = (
        run(*((one >= 0) * one.double() ** power for one in (base, new))) for power in range(3)
    )
    many = run((base == MANY).double(), (new == MANY).double()) > 0
    several = (count * squares > total**2 + 0.5) | (many & (count > 0))
    plane = torch.where(count > 0, total / count.clamp(min=1), NONE)
    return torch.where(several | many, MANY, plane).float(), bool(several.any())


def is_made_anew(name: str) -> bool:
    return name in _MADE_ANEW or name.startswith("new_") or name.endswith("_like")


MOVES = {"cat", "stack", "flip", "roll", "repeat", "index_select", "gather", "index", "take"}
MOVES |= {"pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "rot90", "tile"}
MOVES |= {"repeat_interleave", "im2col", "constant_pad_nd", "diag_embed"}
MOVES |= {f"{kind}_pad{k}d" for kind in ("reflection", "replication") for k in (1, 2, 3)}
_PLACED = {"select_scatter", "slice_scatter", "diagonal_scatter"}
MOVES |= _PLACED
_KEEPS = {"clone", "_to_copy", "contiguous", "native_dropout", "dropout", "tril", "triu"}
_KEEPS |= {"lift_fresh", "resolve_conj", "resolve_neg", "conj", "real", "imag", "nan_to_num"}
_KEEPS |= {"_native_batch_norm_legit_no_training", "_batch_norm_no_update"}
_UNTAGGED = {"addcmul", "addcdiv", "lerp", "hardswish", "log_sigmoid_forward", "floor_divide"}
_UNTAGGED |= {"_prelu_kernel", "rrelu_with_noise", "dequantize"}
"""What works on elements one by one, without torch's tag that says so."""
_MADE_ANEW = {"fill", "zero", "bernoulli", "normal", "uniform", "random"}
_BATCH_NORMS = {"batch_norm", "native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm"}
_BATCH_NORMS |= {"_batch_norm_with_update", "_batch_norm_with_update_functional"}
_NORMS = {"native_layer_norm", "_fused_rms_norm", "rms_norm", "native_group_norm"}
_ADDING = {"addmm", "baddbmm", "addmv"}
_PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "linear", "mv", "addmv", "dot", "vdot"}
_TRANSFORMS = {"_fft_c2c", "_fft_r2c", "_fft_c2r"}
_RUNNING = {"cumsum", "cumprod", "logcumsumexp", "cummax", "cummin"}
_SOFTMAXES = {"_softmax", "_safe_softmax", "_log_softmax", "softmax", "log_softmax"}
_RESIZES = {f"upsample_{kind}{k}d" for kind in ("linear", "bilinear", "nearest") for k in (1, 2)}
_RESIZES |= {f"_upsample_nearest_exact{k}d" for k in (1, 2, 3)} | {"upsample_nearest3d"}
_RESIZES |= {"upsample_bicubic2d", "upsample_trilinear3d", "_upsample_bicubic2d_aa"}
_SCATTERS = {"index_put", "_index_put_impl", "_unsafe_index_put", "index_copy", "index_add"}
_SCATTERS |= {"scatter", "scatter_add", "scatter_reduce", "index_fill", "masked_scatter"}
_SUMMING = {"index_add", "scatter_add", "scatter_reduce"}
_POOLS = {f"{kind}_pool{k}d" for kind in ("avg", "max") for k in (1, 2, 3)}
_POOLS |= {f"_adaptive_avg_pool{k}d" for k in (2, 3)} | {"max_pool2d_with_indices"}
_POOLS |= {"adaptive_max_pool2d", "max_pool3d_with_indices", "adaptive_avg_pool1d"}
_REDUCTIONS = {"sum", "mean", "var", "std", "amax", "amin", "max", "min", "prod", "logsumexp"}
_REDUCTIONS |= {"linalg_vector_norm", "norm", "argmax", "argmin", "any", "all", "var_mean"}
_REDUCTIONS |= {"std_mean", "median", "nansum", "sum_to_size", "aminmax"}

_RULES: dict[str, Callable[[Rules, Done], Followed]] = {
    **dict.fromkeys(MOVES, Rules._moved),
    **dict.fromkeys(_KEEPS, Rules._kept),
    **dict.fromkeys(_PRODUCTS, Rules._product),
    **dict.fromkeys(_SCATTERS, Rules._scattered),
    **dict.fromkeys(_REDUCTIONS, Rules._reduced),
    **dict.fromkeys(_POOLS | _RESIZES, Rules._pooled),
    **dict.fromkeys(_TRANSFORMS, Rules._transformed),
    **dict.fromkeys(_RUNNING | _SOFTMAXES, Rules._along),
    **dict.fromkeys(_NORMS | _BATCH_NORMS, Rules._normalised),
    "copy": Rules._copied,
    "embedding": Rules._embedded,
    "glu": Rules._gated,
    "sort": Rules._sorted,
    "topk": Rules._sorted,
    "convolution": Rules._convolved,
}
"""How each operation is followed: functions, since bound methods would keep a run alive."""

_OF_ONE = {Rules._kept, Rules._normalised, Rules._convolved}
"""The rules that look at the first tensor alone."""
