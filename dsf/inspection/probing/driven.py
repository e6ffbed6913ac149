"""A module that is driven from its values to its response, by unit values.

Where the channels of a head share one map and do not mix, one pass measures as many columns as a
head has channels, each token in a channel of its own: ceil(T / width) passes. Several consecutive
heads may read the values of one. Where every channel has its own map it takes T passes, and where
channels mix, one pass for every token and channel, or two for every token where each channel reads
all others of its group alike, as a mean over channels does. ``single_tokens`` saves most of these
passes where tokens move only few rows, or all rows alike.

``Driven`` is the function from the values at one place of a recorded call to the response at
another: what is not made of the values is held, since a replay computes only what lies between.
``FollowedCall`` and ``Layout`` tell to which sample and token the elements of its tensors belong.
"""

import inspect as signatures
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dsf.inspection.causal import coordinates
from dsf.inspection.causal.coordinates import NONE, Coordinates, InputAxis
from dsf.inspection.errors import InspectionError, UnreadableError
from dsf.inspection.probing.single_tokens import (
    FEW,
    Function,
    Responses,
    one_by_one,
    quick_responses,
)
from dsf.inspection.recording import Exchanged, Recording, Value, instead, values_in

Arranged = Float[Tensor, "sample time channel"]


@dataclass(frozen=True, eq=False)
class Layout:
    """Which element of a tensor belongs to which sample and token.

    Attributes:
        order: the elements sorted by sample, then token; what is left is channels. Elements that
            belong to no token, such as padding that the module adds, are left out.
        samples, tokens: the place of each of them along these axes, ``number axis``.
    """

    order: Tensor
    sizes: tuple[int, int, int]
    sample_axes: tuple[InputAxis, ...]
    token_axes: tuple[InputAxis, ...]
    samples: Int[Tensor, "sample sample_axis"]
    tokens: Int[Tensor, "time token_axis"]

    def arranged(self, tensor: Tensor) -> Arranged:
        """The tensor as ``sample time channel``."""
        return tensor.flatten()[self.order].reshape(self.sizes)

    def laid_out(self, arranged: Arranged, like: Tensor) -> Tensor:
        """The inverse of ``arranged``; what belongs to no token is as in ``like``."""
        flat = like.detach().clone().flatten()
        flat[self.order] = arranged.flatten().to(like.dtype)
        return flat.reshape(like.shape)

    def fits(self, other: "Layout") -> bool:
        """Whether two tensors have the same samples and tokens, along the axes that both have."""
        mine, others = self.token_axes, other.token_axes
        if not set(mine) & set(others) and (mine or others):
            return False
        samples = _common(self.sample_axes, self.samples, other.sample_axes)
        is_alike = torch.equal(samples, _common(other.sample_axes, other.samples, self.sample_axes))
        return is_alike and torch.equal(self.shared_with(other), other.shared_with(self))

    def rows_of(self, column: int, columns: "Layout") -> Tensor:
        """Which tokens are that of a column of values, along the axes that both have."""
        mine, there = self.shared_with(columns), columns.shared_with(self)[column]
        return (mine == there).all(dim=1) & bool(there.numel())

    def shared_with(self, other: "Layout") -> Int[Tensor, "time common"]:
        """The places of the tokens along the axes that both have."""
        return _common(self.token_axes, self.tokens, other.token_axes)

    def own(self, cells: Sequence[Mapping[InputAxis, int | Tensor]]) -> Tensor:
        """Which tokens of which samples, ``sample time``, belong to one of some cells."""
        found = torch.zeros(self.sizes[:2], dtype=torch.bool)
        for cell in cells:
            if not any(axis in cell for axis in self.token_axes):
                continue
            rows = _are_in(self.samples, self.sample_axes, cell)
            found |= rows[:, None] & _are_in(self.tokens, self.token_axes, cell)
        return found


def _common(axes: Sequence[InputAxis], places: Tensor, others: Sequence[InputAxis]) -> Tensor:
    """Places along those axes alone that are among others."""
    return places[:, [k for k, axis in enumerate(axes) if axis in others]]


def _are_in(
    places: Tensor, axes: Sequence[InputAxis], cell: Mapping[InputAxis, int | Tensor]
) -> Tensor:
    """Which places are in a cell, which may have several along an axis."""
    found = torch.ones(len(places), dtype=torch.bool)
    for axis, line in zip(axes, places.unbind(1), strict=True):
        if axis in cell:
            found &= torch.isin(line.cpu(), torch.as_tensor(cell[axis]).cpu())
    return found


def layout_of(
    found: Coordinates | None,
    along: frozenset[InputAxis],
    with_heads: frozenset[InputAxis] = frozenset(),
    *,
    has_others: bool = False,
) -> Layout | None:
    """The layout of a tensor; None unless each of its elements belongs to one token.

    Args:
        along: the axes of the inputs that count tokens; further axes of places count samples, but
            for one that holds channels.
        with_heads: axes of which only the first without tokens counts samples, the others heads.
        has_others: whether a place of no token, such as that of a class token, may hold what was
            made of tokens before, so that it is a row or a column as well.
    """
    if found is None or not found.shape.numel():
        return None
    planes = {_before(axis): plane for axis, plane in found.planes.items()}
    planes |= {axis: plane for axis, plane in found.planes.items() if axis in planes}
    tokens = tuple(axis for axis in _sorted(planes) if axis in along)
    if any(bool((planes[axis] >= 0).any()) for axis in tokens):  # what is summed up is not a place
        tokens = tuple(
            axis
            for axis in tokens
            if not bool((coordinates.small(planes[axis]) == coordinates.MANY).all())
        )
    if not tokens:
        return None
    tokens = tuple(coordinates.telling(planes, tokens))
    is_token = torch.ones((), dtype=torch.bool)
    for axis in tokens:
        if bool((planes[axis] == coordinates.MANY).any()):
            return None
        is_token = is_token & (planes[axis] >= 0)
    if has_others:
        planes = {
            axis: plane if axis in tokens else _filled(plane) for axis, plane in planes.items()
        }
    chosen = is_token.expand(found.shape).flatten().nonzero().flatten()
    heads = sorted((axis for axis in with_heads - along), key=lambda axis: axis.number)[1:]
    unseen = _channels_unseen(planes, along) | set(heads)
    samples = tuple(
        axis
        for axis in _sorted(planes)
        if axis not in along
        and axis not in unseen
        and coordinates.is_place(axis)
        and bool((planes[axis].flatten()[chosen] >= 0).all())
    )
    if has_others and not bool(is_token.all()):
        made = _with_others(found.shape, planes, chosen, samples, tokens)
        if made is not None:
            return made
    made = _laid_out(planes, chosen, samples, tokens)
    if made is None:  # as where tokens at the ends come twice, reflected
        places = _places(found.shape, [planes[axis] for axis in tokens])
        made = _laid_out(planes, chosen, samples, tokens, places)
    return None if made is None or len(made.tokens) < 2 else made


def _filled(plane: Tensor) -> Tensor:
    """A plane of one axis of a tensor, also where elements are of no index."""
    for dim in range(plane.ndim):
        line = plane.amax(dim=[k for k in range(plane.ndim) if k != dim], keepdim=True)
        if bool((line >= 0).all()) and bool(((plane == NONE) | (plane == line)).all()):
            return line.expand(plane.shape)
    return plane


def _with_others(
    shape: torch.Size,
    planes: coordinates.Planes,
    chosen: Tensor,
    samples: tuple[InputAxis, ...],
    tokens: tuple[InputAxis, ...],
) -> Layout | None:
    """The layout of a tensor of which some places belong to no token; None if they are unclear."""
    every = torch.arange(shape.numel(), device=chosen.device)
    lines = [planes[axis].flatten() for axis in samples]
    if not len(chosen) or any(bool((line < 0).any()) for line in lines):
        return None
    sample, _ = _numbered(planes, samples, every)
    group = torch.full_like(every, -1)
    group[chosen], _ = _numbered(planes, tokens, chosen)
    by_dims = _places(shape, [planes[axis] for axis in tokens])
    for places in (_in_blocks(group, sample), by_dims):
        made = None if places is None else _laid_out(planes, every, samples, tokens, places)
        if made is not None:
            return made
    return None


def _in_blocks(group: Tensor, sample: Tensor) -> Tensor | None:
    """The place of every element: that of its token, or one as large; None if they do not fit."""
    counts = torch.bincount(sample)
    if bool((counts != counts[0]).any()):
        return None
    order = sample.argsort(stable=True)
    each = group[order].unflatten(0, (len(counts), -1))
    if bool((each != each[:1]).any()):
        return None
    # Elements of one token lie in blocks, side by side or apart; those of other places do as well.
    places = each[0].clone()
    own, others = (places == places.max()).nonzero().flatten(), (places < 0).nonzero().flatten()
    if len(others) % len(own):
        return None
    apart = (own.diff() != 1).nonzero().flatten()
    block = int(apart[0]) + 1 if len(apart) else len(own)
    count = len(others) // len(own)
    further = torch.arange(len(others)).to(places) // block % count
    places[others] = 1 + int(places.max()) + further
    firsts = torch.stack([(places == one).nonzero()[0, 0] for one in places.unique()])
    found = torch.empty_like(group)
    found[order] = firsts[places].repeat(len(counts))
    return found


def _places(shape: torch.Size, planes: Sequence[Tensor]) -> Tensor:
    """The number of the place of every element along all axes along which its token changes."""
    sizes = [
        size if any(coordinates.varies(plane, dim) for plane in planes) else 1
        for dim, size in enumerate(shape)
    ]
    return torch.arange(math.prod(sizes), device=planes[0].device).reshape(sizes).expand(shape)


def _channels_unseen(axes: Iterable[InputAxis], along: frozenset[InputAxis]) -> set[InputAxis]:
    """Axes of inputs that hold channels by their place, where no projection shows which do."""
    # After samples and tokens they come last, as in (sample, token, channel), (sample, channel,
    # token) and (token, sample, channel); without samples behind the tokens.
    found: set[InputAxis] = set()
    by_source: dict[coordinates.Source, list[InputAxis]] = {}
    for axis in axes:
        if axis.source.kind == "input" and axis.source.channels is None:
            by_source.setdefault(axis.source, []).append(axis)
    for own in by_source.values():
        counted = [axis.number for axis in own if axis in along]
        others = sorted((axis for axis in own if axis not in along), key=lambda one: one.number)
        is_last = len(others) == 1 and others[0].number > max(counted, default=len(own))
        if len(others) == 2 or is_last:
            found.add(others[-1])
    return found


def rows_beside(
    found: Coordinates | None, samples: tuple[InputAxis, ...], tokens: tuple[InputAxis, ...]
) -> Layout | None:
    """The layout of a tensor with the samples of some values and rows that are not their tokens.

    Args:
        samples, tokens: the axes of the values.
    """
    # The rows are the other positions that its elements belong to, such as tokens of another
    # sequence or groups; there is one where they belong to none. None where its elements belong to
    # single tokens of the values, or not to single samples.
    if found is None or not found.shape.numel():
        return None
    planes = {axis: plane for axis, plane in found.planes.items() if coordinates.is_place(axis)}
    if any(bool((planes[axis] >= 0).any()) for axis in tokens if axis in planes):
        return None
    if any(axis not in planes for axis in samples):
        return None
    others = [axis for axis in _sorted(planes) if axis not in samples]
    rows = tuple(axis for axis in others if bool((planes[axis] >= 0).any()))
    chosen_in = torch.ones((), dtype=torch.bool)
    for axis in (*samples, *rows):
        chosen_in = chosen_in & (planes[axis] >= 0)
    chosen = chosen_in.expand(found.shape).flatten().nonzero().flatten()
    sample, _ = _numbered(planes, samples, chosen)
    places = {axis: planes[axis].flatten()[chosen].long() for axis in rows}
    pairs = {axis: torch.stack([place, sample], dim=1) for axis, place in places.items()}
    count = len(sample.unique())  # the same everywhere in a sample, as that of a second batch is
    alike = tuple(axis for axis in rows if len(pairs[axis].unique(dim=0)) == count)
    rows = tuple(axis for axis in rows if axis not in alike)
    return _laid_out(planes, chosen, (*samples, *alike), rows)


def _laid_out(
    planes: coordinates.Planes,
    chosen: Tensor,
    samples: tuple[InputAxis, ...],
    tokens: tuple[InputAxis, ...],
    places: Tensor | None = None,
) -> Layout | None:
    """The layout of some elements; None where there are none, or more in one place than another."""
    if not len(chosen):
        return None
    time, at_time = _numbered(planes, tokens, chosen, places)
    lines = [planes[axis].flatten()[chosen] for axis in tokens]
    if any(bool((line != at_time[time, k]).any()) for k, line in enumerate(lines)):
        return None
    sample, at_sample = _numbered(planes, samples, chosen)
    cells = sample * len(at_time) + time
    counts = torch.bincount(cells, minlength=len(at_sample) * len(at_time))
    if bool((counts != counts[0]).any()):
        return None
    return Layout(
        order=chosen[cells.argsort(stable=True)],
        sizes=(len(at_sample), len(at_time), int(counts[0])),
        sample_axes=samples,
        token_axes=tokens,
        samples=at_sample,
        tokens=at_time,
    )


def _before(axis: InputAxis) -> InputAxis:
    """The axis whose tokens weights sum up to as many: each stands where one of them stood."""
    before = list(axis.source.before)
    is_made = axis.source.kind == "slots" and axis.source.is_known
    is_same = is_made and len(before) == 1 and before[0].size == axis.size
    return before[0] if is_same else axis


def _sorted(axes: Iterable[InputAxis]) -> list[InputAxis]:
    return sorted(axes, key=lambda axis: (axis.source.name, axis.number))


def _numbered(
    planes: coordinates.Planes,
    axes: Sequence[InputAxis],
    chosen: Tensor,
    by: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """For every chosen element the number of its group, and the place of every group."""
    keys, lines = torch.zeros_like(chosen), chosen.new_zeros(len(axes), len(chosen))
    for line, axis in zip(lines, axes, strict=True):
        line.copy_(planes[axis].flatten()[chosen])
        keys = keys * axis.size + line
    if by is not None:
        keys = by.flatten()[chosen]
    groups, numbers = torch.unique(keys, return_inverse=True)
    member = torch.empty_like(groups).scatter_(0, numbers, torch.arange(len(chosen)).to(groups))
    return numbers, lines[:, member].T


@dataclass(frozen=True, eq=False)
class FollowedCall:
    """One recorded call of a module, with the samples and tokens of its tensors.

    Attributes:
        made_of, names: the coordinates of the tensors that it was given, and of the arguments that
            they are or lie in their names.
        rounding: what counts as rounding in it, relative.
        along: the axes along which the module mixes, and those that these were made from.
        choices: how its tokens order or choose one another, in words: no replay does so again.
    """

    recording: Recording
    made_of: Sequence[Coordinates | None]
    names: list[str]
    rounding: float
    along: frozenset[InputAxis]
    choices: tuple[str, ...] = ()
    _found: dict[Value, Layout | None] = field(init=False, default_factory=dict)

    def coordinates(self, value: Value) -> Coordinates | None:
        found: Coordinates | None = self.recording.seen.get(value)
        return found if value.dtype.is_floating_point else None

    @cached_property
    def has_others(self) -> bool:
        """Whether places of no token, such as class tokens, have a part in it as tokens have."""
        # Zeros are padding, others learnt: attentions before may have sent tokens to them. Where
        # as many places of none come back, as of a window that keeps the length, they are used.
        held = ((one, self._others(one)) for one in self.recording.given)
        given = [(one, others) for one, others in held if others is not None]
        if any(bool((self.recording.tensor(one)[others] != 0).any()) for one, others in given):
            return True
        others = self._others(self.recording.first_output)
        if others is None or others.double().mean() not in [x.double().mean() for _, x in given]:
            return False
        return self._moves(others)

    def _others(self, value: Value) -> Tensor | None:
        """Which elements of a value are of no token, where others are; None if there are none."""
        found = self.coordinates(value)
        of_none: dict[coordinates.Source, Tensor] = {}  # of none of a source, then of none at all
        for axis, plane in found.planes.items() if found is not None else ():
            if axis in self.along:
                before = of_none.get(axis.source, torch.zeros((), dtype=torch.bool))
                of_none[axis.source] = before | (plane == NONE)
        others = torch.stack([*of_none.values()]).all(dim=0) if of_none else torch.zeros(0)
        return others if bool(others.any()) and not bool(others.all()) else None

    def _moves(self, part: Tensor) -> bool:
        """Whether tokens that it is given move a part of its first output."""
        recording, output, new = self.recording, self.recording.first_output, []
        for one in filter(self.coordinates, recording.given):
            now, kept = recording.tensor(one), self._others(one)
            kept = torch.zeros((), dtype=torch.bool) if kept is None else kept
            other = now + now.square().mean().sqrt() * now.cos()
            new.append(instead(one, torch.where(kept.to(now.device), now, other)))
        after = recording.replay(new, [output])[output]
        return bool((after != recording.tensor(output))[part].any())

    @cached_property
    def _least(self) -> int:
        given = map(self._layout, self.recording.given)
        return min((one.sizes[0] * one.sizes[1] for one in given if one), default=0)

    def layout(self, value: Value) -> Layout | None:
        """The layout of a value; None unless each of its elements belongs to one token."""
        # Most tensors of a loop over steps are smaller; looking at each takes longer than the rest.
        return self._layout(value) if value.shape.numel() >= self._least else None

    def _layout(self, value: Value) -> Layout | None:
        if value not in self._found:
            found = self.coordinates(value)
            self._found[value] = layout_of(found, self.along, has_others=self.has_others)
        return self._found[value]

    def tokens(self, value: Value) -> tuple[int, ...] | None:
        """The tokens along all axes that a part of a sequence is of; None where it is of many."""
        found, tokens = self.coordinates(value), list[int]()
        for axis, plane in found.planes.items() if found is not None else ():
            if axis in self.along:
                each = coordinates.small(plane).unique().tolist()
                if coordinates.MANY in each:
                    return None
                tokens += map(int, each)
        return tuple(tokens)


ROUNDING = 1e-9
"""The largest relative difference taken for rounding; a smaller nonlinearity is not detected."""
MOST_PASSES = 20_000
"""The largest number of forward passes for one map."""
PAIRED = 3.0
"""A change of values by a step and by as many against it, to see whether a function is affine."""


@dataclass(frozen=True, eq=False)
class Linear:
    """An affine function of values: a map and the response to zero values.

    Attributes:
        weights: ``sample head time read``, or ``sample output input time read`` where channels mix.
        width: channels of a head; 1 where every channel has its own map, 0 where channels mix.
    """

    weights: Tensor
    width: int
    rest: Float[Tensor, "sample time output"]
    superposition: float


def without_rest(function: Function, like: Arranged) -> tuple[Function, Tensor]:
    """A function less its response to zero values, and that response."""
    rest = function(torch.zeros_like(like))
    return lambda values: function(values) - rest, rest


def superposition(part: Function, like: Float[Tensor, "sample read input"]) -> float:
    """The relative error of superposition: 0 if ``part`` is linear, nan if it is not finite."""
    one, other = random_values(like, seed=0), random_values(like, seed=1)
    first, second = part(one), part(other)
    both, scaled = part(2 * one - 3 * other), part(50 * one)
    size = first.abs().max() + second.abs().max()
    if size == 0:
        return 0.0
    apart = (both - 2 * first + 3 * second).abs().max() / 5
    return (torch.maximum(apart, (scaled - 50 * first).abs().max() / 50) / size).item()


def read_off(
    function: Function,
    like: Float[Tensor, "sample read input"],
    *,
    rounding: float = ROUNDING,
    allow: Callable[[int, int], None] = lambda _passes, _numbers: None,
) -> Linear:
    """The map of a function that is affine in its values.

    Args:
        allow: called with the passes that a way to measure the map takes and the numbers that the
            map holds, before that way is taken; it raises an error if they are too many.
    """
    part, rest = without_rest(function, like)
    bent = superposition(part, like)
    if not bent <= rounding:
        raise UnreadableError(f"it is not linear in its values: superposition error {bent:.1e}")
    control = random_values(like, seed=2)
    expected = part(control)
    samples, rows, outputs = expected.shape
    for way in _ways(part, like, outputs, rounding):
        maps = outputs // way.width if way.width else outputs * like.shape[-1]
        allow(way.passes, samples * maps * rows * like.shape[1])
        found = way.measured()
        apart = (applied(found, control, way.width) - expected).abs().max()
        if apart <= way.rounding * expected.abs().max():
            return Linear(found, way.width, rest, bent)
    raise UnreadableError("its response is not the sum of its responses to single values")


@dataclass(frozen=True)
class Way:
    """A way to measure a map.

    Attributes:
        width: of the heads of the map; 0 where channels mix.
        passes: how many it takes.
        measured: what makes them, and returns the map.
        rounding: the largest relative difference to other responses that is taken for rounding.
    """

    width: int
    passes: int
    measured: Callable[[], Tensor]
    rounding: float


def _ways(part: Function, like: Tensor, outputs: int, rounding: float) -> Iterator[Way]:
    """Ways to measure a map, the likeliest first."""
    steps, channels = like.shape[1:]
    same, single = random_values(like[..., :1], seed=3), torch.zeros_like(like)
    single[..., :1] = same
    alike, alone = part(same.expand_as(like).contiguous()), part(single)
    limit = rounding * max(alike.abs().max(), alone.abs().max())
    width = head_width(alike, alone, channels, limit)
    most = math.ceil(steps / max(width, 1))
    is_exact = most > FEW and rounding <= ROUNDING
    quick = quick_responses(part, like, most=most) if is_exact else []
    for each in dict.fromkeys((width, 1)) if width else ():
        for how in quick:
            taking = partial(_by_heads, how.responses, part, like, each)
            yield Way(each, how.passes, taking, how.rounding)
        yield Way(each, math.ceil(steps / each), partial(_by_units, part, like, each), rounding)
    count = groups_of(alone, channels, limit)
    grouped = list[tuple[int, Callable[..., Tensor], int]]()
    if outputs == channels and channels > 2 * count:
        other = part(single.roll(1, dims=-1))
        if bool((other - alone)[..., 2 : channels // count].abs().max() <= limit):
            grouped.append((2, _by_sums, count))
    grouped += [(channels // each, _by_impulses, each) for each in dict.fromkeys((count, 1))]
    for drives, measured, groups in grouped:
        for how in (*quick, one_by_one(like, rounding)):
            taking = partial(measured, how.responses, part, like, groups)
            yield Way(0, drives * how.passes, taking, how.rounding)


def applied(weights: Tensor, values: Tensor, width: int) -> Float[Tensor, "sample time output"]:
    """A map times values, for channels in heads of ``width``; 0 where they mix."""
    if width == 0:
        return torch.einsum("soitr,sri->sto", weights, values)
    return torch.einsum("shtr,shrc->sthc", weights, by_head(values, weights, width)).flatten(2)


def by_head(values: Tensor, weights: Tensor, width: int) -> Float[Tensor, "sample head read _"]:
    """The values in heads of ``width``, repeated for every head of the map that reads them."""
    heads = values.unflatten(-1, (-1, width)).transpose(1, 2)
    return heads.repeat_interleave(weights.shape[1] // heads.shape[1], dim=1)


def random_values(like: Tensor, *, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    size = like.std(correction=0).clamp(min=1e-3).item() if like.numel() else 1.0
    return size * torch.randn(like.shape, generator=rng, dtype=like.dtype).to(like.device)


def head_width(alike: Tensor, alone: Tensor, channels: int, limit: Tensor) -> int:
    """The width of heads whose channels share a map and keep to themselves; 0 if channels mix.

    Args:
        alike: the response to equal values in all channels.
        alone: the response to values in the first channel alone.
    """
    copies = alone.shape[-1] // channels
    for width in range(channels, 0, -1):
        if channels % width or alone.shape[-1] % channels:
            continue
        heads, of_first = (each.unflatten(-1, (-1, width)) for each in (alike, alone))
        others = of_first.index_fill(-1, of_first.new_zeros(1, dtype=torch.long), 0)
        further = of_first[..., copies:, 0]
        moved = (heads - heads[..., :1], others, further)
        if all(not bool((each.abs() > limit).any()) for each in moved):
            return width
    return 0


def _by_units(part: Function, like: Tensor, width: int) -> Float[Tensor, "sample head time read"]:
    columns = []
    steps, heads = like.shape[1], like.shape[-1] // width
    for start in range(0, steps, width):
        driven = torch.arange(start, min(start + width, steps), device=like.device)
        values = torch.zeros_like(like).unflatten(-1, (heads, width))
        values[:, driven, :, driven - start] = 1
        response = part(values.flatten(2)).unflatten(-1, (-1, width))
        columns.append(response[..., : len(driven)].transpose(1, 2))
    return torch.cat(columns, dim=-1)


def groups_of(alone: Tensor, channels: int, limit: Tensor) -> int:
    """How many groups of channels keep to themselves, by what the first channel alone moves."""
    moved = (alone.abs() > limit).flatten(0, 1).any(dim=0).nonzero()
    reach, outputs = int(moved.max()) + 1 if len(moved) else 1, alone.shape[-1]
    return max(
        count
        for count in range(1, channels + 1)
        if channels % count == outputs % count == 0 and outputs // count >= reach
    )


def _by_heads(
    responses: Responses, part: Function, like: Tensor, width: int
) -> Float[Tensor, "sample head time read"]:
    """Each token alone, in all channels: of those of a head, which respond alike, the first."""
    drive = like.new_ones(like.shape[-1])
    return responses(lambda values: part(values)[..., ::width], like, drive).permute(1, 3, 2, 0)


def _by_impulses(
    responses: Responses, part: Function, like: Tensor, groups: int
) -> Float[Tensor, "sample output input time read"]:
    """Each value alone, of all groups of channels at a time."""
    size = like.shape[-1] // groups
    found = [responses(part, like, one.repeat(groups)) for one in torch.eye(size).to(like)]
    each = torch.stack(found).unflatten(-1, (groups, -1))
    # "input read sample time group output"
    return _of_groups(each.permute(4, 2, 5, 0, 3, 1))


def _by_sums(
    responses: Responses, part: Function, like: Tensor, groups: int
) -> Float[Tensor, "sample output input time read"]:
    """As by impulses, where a channel reads all others of its group alike, as one of means does."""
    size = like.shape[-1] // groups
    first = like.new_zeros(like.shape[-1])
    first[::size] = 1
    drives = first, torch.ones_like(first)
    both = (responses(part, like, each).unflatten(-1, (groups, size)) for each in drives)
    one, all_of_group = (each.permute(1, 2, 3, 4, 0) for each in both)
    # "sample time group output read"; what the first channel reads of itself is also its own part.
    others = one.clone()
    others[:, :, :, 0] = (all_of_group - one)[:, :, :, 0] / (size - 1)
    own = all_of_group - size * others
    blocks = others.permute(2, 0, 3, 1, 4).unsqueeze(3).repeat(1, 1, 1, size, 1, 1)
    blocks.diagonal(dim1=2, dim2=3).add_(own.permute(2, 0, 1, 4, 3))
    return _of_groups(blocks)


def _of_groups(
    blocks: Float[Tensor, "group sample output input time read"],
) -> Float[Tensor, "sample outputs inputs time read"]:
    """A map whose groups of channels keep to themselves; every one is a block of the whole."""
    groups, samples, outputs, inputs, rows, steps = blocks.shape
    weights = blocks.new_zeros(samples, groups, outputs, groups, inputs, rows, steps)
    own = torch.arange(groups)
    weights[:, own, :, own] = blocks
    return weights.flatten(3, 4).flatten(1, 2)


WHERE = re.compile(r"(?P<name>[\w.]*)(\((?P<argument>\w+)\))?")


def as_it_is(tensor: Tensor) -> Tensor:
    """The view of a tensor that needs none."""
    return tensor


@dataclass(frozen=True)
class Port:
    """The place in a module where its values enter or its response leaves.

    Attributes:
        where: ``v_proj`` for the output of a submodule, ``out_proj(input)`` for one of its
            arguments. Methods, and functions in the file that defines the module's class, are named
            in the same way, such as ``scan(value)``. ``""`` is the module's output and ``(x)`` its
            argument.
        view: a function from that tensor to a view of it as ``sample time channel`` or
            ``sample time head channel``.
    """

    where: str = ""
    view: Callable[[Tensor], Tensor] = as_it_is

    def __post_init__(self) -> None:
        if WHERE.fullmatch(self.where) is None:
            raise ValueError(
                f"Port: 'where' must be a name such as 'v_proj', or one with an argument such as "
                f"'out_proj(input)', but it is {self.where!r}."
            )

    @property
    def name(self) -> str:
        """The name of the submodule, method or function."""
        return self.where.partition("(")[0]

    @property
    def argument(self) -> str | None:
        """The name of its argument; None for its output."""
        return self.where.partition("(")[2].rstrip(")") or None


def as_called(
    module: nn.Module, arguments: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Named arguments as ``forward`` takes them: the first ones by position, as hooks read them."""
    rest, args = dict(arguments), list[Any]()
    for name, kind in signatures.signature(module.forward).parameters.items():
        if name not in rest or kind.kind in (kind.KEYWORD_ONLY, kind.VAR_KEYWORD):
            break
        args += rest.pop(name) if kind.kind is kind.VAR_POSITIONAL else [rest.pop(name)]
    return tuple(args), rest


def owner_of(module: nn.Module, port: Port) -> tuple[Any, str]:
    *path, name = port.name.split(".")
    inner = dict(module.named_modules()).get(".".join(path))
    if inner is not None and callable(getattr(inner, name, None)):
        return inner, name
    for cls in type(module).__mro__:
        file = sys.modules.get(cls.__module__)
        if not path and callable(getattr(file, name, None)):
            return file, name
    raise InspectionError(
        f"Port '{port.where}': {type(module).__name__} has no submodule or method '{port.name}', "
        "and the file that defines its class has no such function. Name one of those."
    )


def passing(recording: Recording, port: Port) -> tuple[Value, frozenset[int]]:
    """The tensor that passes a port of a submodule or function.

    With the operations that read it but are not part of the call whose argument it is.
    """
    calls = [call for call in recording.calls if call.name == port.name]
    if len(calls) != 1:
        times = f"{len(calls)} tensors" if calls else "no tensor"
        raise InspectionError(
            f"Port '{port.where}': {times} passed it in this call. Name a submodule or function "
            "that the module calls once."
        )
    (call,) = calls
    if port.argument is None:
        return values_in(call.output)[0], frozenset()
    named = signatures.signature(call.function).bind_partial(*call.args, **call.kwargs)
    given = named.arguments.get(port.argument)
    if not isinstance(given, Value):
        raise InspectionError(
            f"Port '{port.where}': '{port.name}' was not given a tensor '{port.argument}'. "
            f"Name one that it was given: {', '.join(named.arguments) or 'there is none'}."
        )
    inside = range(call.began, call.ended)
    return given, frozenset(one for one in recording.readers(given) if one not in inside)


def viewed(value: Value, port: Port) -> Layout:
    index = torch.arange(value.shape.numel()).reshape(value.shape)
    seen = port.view(index)
    if seen.ndim not in (3, 4):
        raise InspectionError(
            f"Port '{port.where}': its view must be sample, time, channel, or sample, time, head, "
            f"channel, but it has the shape {tuple(seen.shape)}. Give Port a view=... that has "
            "these axes."
        )
    sizes = (*seen.shape[:2], seen.shape[2:].numel())
    samples, tokens = (index.new_zeros(size, 0) for size in sizes[:2])
    return Layout(seen.flatten(), sizes, (), (), samples, tokens)


Exchange = Callable[[Tensor], Tensor]
Exchanges = Sequence[Exchanged]


@dataclass(frozen=True, eq=False)
class Loop:
    """Values that a loop makes step by step.

    Attributes:
        parts: the values of every step, which lie in one tensor of ``linear`` as well.
        linear: the program from that tensor to what is linear in it while factors are held.
        before: what the response is put together from: what is linear in the values of each step.
        besides: further outputs that are linear in the values.
    """

    parts: tuple[Value, ...]
    linear: Recording
    before: tuple[Value, ...]
    besides: tuple[Value, ...]


@dataclass(frozen=True, eq=False)
class Ports:
    """Where the values of a module enter and where its response leaves.

    Attributes:
        kept: operations that are given the original values all the same.
        layouts: of these tensors, where not the run shows them.
        loop: where the values are those of its steps.
        factors: values made of these that only multiply what is linear in them, which are held.
    """

    value: Value
    response: Value
    kept: frozenset[int] = frozenset()
    names: tuple[str, str] = ("", "")
    layouts: Mapping[Value, Layout] = field(default_factory=dict)
    loop: Loop | None = None
    factors: Mapping[Value, str] = field(default_factory=dict)

    @property
    def besides(self) -> tuple[Value, ...]:
        return () if self.loop is None else self.loop.besides


class Driven:
    """The function from values to response between two places of a recorded call."""

    def __init__(self, call: FollowedCall, ports: Ports):
        value, response = (
            ports.layouts.get(one) or call.layout(one) for one in (ports.value, ports.response)
        )
        if value is None or response is None:
            raise UnreadableError("its values or its response have no tokens")
        self.recording, self.ports, self.passes = call.recording, ports, 0
        self.choices, self.rounding = call.choices, call.rounding
        self.linear = call.recording if ports.loop is None else ports.loop.linear
        self.value, self.response = value, response
        self.put_out = call.layout(call.recording.first_output)

    def original(self) -> tuple[Tensor, Tensor, Tensor]:
        self.passes += 1
        values, response, output = map(
            self.linear.tensor,
            (self.ports.value, self.ports.response, self.recording.first_output),
        )
        return self.value.arranged(values), self.response.arranged(response), output

    def __call__(self, values: Arranged) -> Float[Tensor, "sample written output"]:
        self.passes += 1
        return self.response_to([], lambda _: values)

    def response_to(self, exchanged: Exchanges, values: Exchange) -> Arranged:
        """The response where other tensors of the call are exchanged, too."""
        new = _exchanged(self.ports.value, self.value, values, self.ports.kept)
        held = self.recording.held(self.ports.factors, exchanged)
        found = self.linear.replay([*exchanged, new, *held], [self.ports.response])
        return self.response.arranged(found[self.ports.response])

    def values_in(self, exchanged: Exchanges) -> Arranged:
        """The values where other tensors of the call are exchanged."""
        if (loop := self.ports.loop) is not None:  # responses that steps read are not a path
            held = self.recording.held(loop.before)
            parts = self.recording.replay([*exchanged, *held], loop.parts)
            return self.value.arranged(torch.stack([parts[one] for one in loop.parts]))
        found = self.recording.replay(exchanged, [self.ports.value])
        return self.value.arranged(found[self.ports.value])

    def besides(self, exchanged: Exchanges) -> list[Exchanged]:
        """What keeps further outputs that are linear in the values, but for what others add."""
        if not (wanted := self.ports.besides):
            return []
        nothing = _exchanged(self.ports.value, self.value, torch.zeros_like)
        rest, other = (self.linear.replay([*each, nothing], wanted) for each in ([], exchanged))
        now = {one: self.recording.tensor(one) + other[one] - rest[one] for one in wanted}
        return [instead(one, new) for one, new in now.items()]

    def with_response(self, response: Exchange) -> Exchanged:
        """What puts another response, made from its own, in its place."""
        return _exchanged(self.ports.response, self.response, response)

    def output(self, response: Arranged) -> Tensor:
        """The module's output when its response is replaced by the given one."""
        wanted = self.recording.first_output
        return self.recording.replay([self.with_response(lambda _: response)], [wanted])[wanted]

    @property
    def work(self) -> tuple[int, int]:
        """How many operations run from the values to the response, and the numbers they read."""
        return self.linear.work([self.ports.value], [self.ports.response])

    @property
    def has_own_rows(self) -> bool:
        """Whether row i of the map is the token of column i."""
        return self.value.fits(self.response)

    def tokens(self) -> tuple[Int[Tensor, " time"], Int[Tensor, " read"]]:
        """The number of the token of every row and column; -1 for one that is of none of them."""
        rows, columns = (
            dict(zip(one.token_axes, one.tokens.float().unbind(1), strict=True))
            for one in (self.response, self.value)
        )
        numbers = coordinates.token_numbers(columns)
        assert numbers is not None  # noqa: S101
        numbers = torch.full_like(numbers, NONE) if self._is_of_sums else numbers
        shared = {axis: line for axis, line in columns.items() if axis in rows}
        by_shared = coordinates.token_numbers(shared)
        number = coordinates.token_numbers({axis: rows[axis] for axis in shared})
        if number is None or by_shared is None or not torch.equal(by_shared, numbers):
            number = torch.full((len(self.response.tokens),), NONE)
        number, numbers = (each.clamp(min=NONE).long().cpu() for each in (number, numbers))
        return number, numbers

    @property
    def has_slots(self) -> bool:
        """Whether the values are of slots, which are made of many tokens each."""
        kinds = {axis.source.kind for axis in self.value.token_axes}
        return kinds == {"slots"} or self._is_of_sums

    @property
    def _is_of_sums(self) -> bool:
        """Whether tokens were summed along a further axis, as those of a row of an image."""
        seen, axes = self.recording.seen.get(self.ports.value), self.value.token_axes
        of_tokens = {axis.source for axis in axes}
        return seen is not None and any(
            bool((coordinates.small(plane) == coordinates.MANY).all())
            for axis, plane in seen.planes.items()
            if axis.source in of_tokens
            and (axis.source.channels or axis.source.before)
            and not (axis in axes or coordinates.counts_samples(axis) or axis.size == 1)
            and coordinates.is_place(axis)
        )


def _exchanged(
    value: Value, layout: Layout, new: Exchange, kept: frozenset[int] = frozenset()
) -> Exchanged:
    """What puts other numbers, made from its own, into a tensor."""
    return Exchanged(value, lambda old: layout.laid_out(new(layout.arranged(old)), old), kept)
