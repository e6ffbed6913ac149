"""Which elements of the tensors of a recorded call belong to which sample and token.

``Layout`` arranges one tensor as ``sample time channel``. ``FollowedCall`` finds those of all
values of a recording, from what was followed while it was made.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dsf.inspection.causal.coordinates import (
    MANY,
    Coordinates,
    InputAxis,
    Planes,
    Source,
    is_place,
    small,
)
from dsf.inspection.recording import Recording, Value

Arranged = Float[Tensor, "sample time channel"]


@dataclass(frozen=True, eq=False)
class Layout:
    """Which element of a tensor belongs to which sample and token.

    Attributes:
        order: the elements sorted by sample, then token; what is left is channels. Elements that
            belong to no token, such as padding, are left out.
        samples, tokens: the place of each of them along these axes, ``number axis``.
    """

    shape: torch.Size
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
        pairs = (
            (
                _common(self.sample_axes, self.samples, other.sample_axes),
                _common(other.sample_axes, other.samples, self.sample_axes),
            ),
            (_common(mine, self.tokens, others), _common(others, other.tokens, mine)),
        )
        return all(torch.equal(one, another) for one, another in pairs)

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
) -> Layout | None:
    """The layout of a tensor; None unless each of its elements belongs to one token.

    Args:
        along: the axes of the inputs that count tokens; further axes of places count samples, but
            for one that holds channels.
        with_heads: axes of which only the first without tokens counts samples, the others heads.
    """
    if found is None or not found.shape.numel():
        return None
    planes = {_before(axis): plane for axis, plane in found.planes.items()}
    planes |= {axis: plane for axis, plane in found.planes.items() if axis in planes}
    tokens = tuple(axis for axis in _sorted(planes) if axis in along)
    if any(bool((planes[axis] >= 0).any()) for axis in tokens):  # what is summed up is not a place
        tokens = tuple(axis for axis in tokens if not bool((small(planes[axis]) == MANY).all()))
    if not tokens:
        return None
    is_token = torch.ones((), dtype=torch.bool)
    for axis in tokens:
        if bool((planes[axis] == MANY).any()):
            return None
        is_token = is_token & (planes[axis] >= 0)
    chosen = is_token.expand(found.shape).flatten().nonzero().flatten()
    heads = sorted((axis for axis in with_heads - along), key=lambda axis: axis.number)[1:]
    unseen = _channels_unseen(planes, along) | set(heads)
    samples = tuple(
        axis
        for axis in _sorted(planes)
        if axis not in along
        and axis not in unseen
        and is_place(axis)
        and bool((planes[axis].flatten()[chosen] >= 0).all())
    )
    made = _laid_out(found.shape, planes, chosen, samples, tokens)
    return None if made is None or len(made.tokens) < 2 else made


def _channels_unseen(axes: Iterable[InputAxis], along: frozenset[InputAxis]) -> set[InputAxis]:
    """Axes of inputs that hold channels by their place, where no projection shows which do."""
    # After samples and tokens they come last, as in (sample, token, channel), (sample, channel,
    # token) and (token, sample, channel); without samples behind the tokens.
    found: set[InputAxis] = set()
    by_source: dict[Source, list[InputAxis]] = {}
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


def rows_beside(found: Coordinates | None, values: Layout) -> Layout | None:
    """The layout of a tensor with the samples of some values and rows that are not their tokens."""
    # The rows are the other positions that its elements belong to, such as tokens of another
    # sequence or groups; there is one where they belong to none. None where its elements belong to
    # single tokens of the values, or not to single samples.
    if found is None or not found.shape.numel():
        return None
    planes = {axis: plane for axis, plane in found.planes.items() if is_place(axis)}
    if any(bool((planes[a] >= 0).any()) for a in values.token_axes if a in planes):
        return None
    if any(axis not in planes for axis in values.sample_axes):
        return None
    others = [axis for axis in _sorted(planes) if axis not in values.sample_axes]
    rows = tuple(axis for axis in others if bool((planes[axis] >= 0).any()))
    chosen_in = torch.ones((), dtype=torch.bool)
    for axis in (*values.sample_axes, *rows):
        chosen_in = chosen_in & (planes[axis] >= 0)
    chosen = chosen_in.expand(found.shape).flatten().nonzero().flatten()
    samples = values.sample_axes
    sample, _ = _numbered([planes[axis] for axis in samples], samples, chosen)
    places = {axis: planes[axis].flatten()[chosen].long() for axis in rows}
    pairs = {axis: torch.stack([place, sample], dim=1) for axis, place in places.items()}
    count = len(sample.unique())  # the same everywhere in a sample, as that of a second batch is
    alike = tuple(axis for axis in rows if len(pairs[axis].unique(dim=0)) == count)
    rows = tuple(axis for axis in rows if axis not in alike)
    samples = (*samples, *alike)
    made = _laid_out(found.shape, planes, chosen, samples, rows)
    if made is None:
        return None
    known = made.samples[:, : len(values.sample_axes)]
    return made if torch.equal(known, values.samples) else None


def _laid_out(
    shape: torch.Size,
    planes: Planes,
    chosen: Tensor,
    samples: tuple[InputAxis, ...],
    tokens: tuple[InputAxis, ...],
) -> Layout | None:
    """The layout of some elements; None where there are none, or more in one place than another."""
    if not len(chosen):
        return None
    time, at_time = _numbered([planes[axis] for axis in tokens], tokens, chosen)
    sample, at_sample = _numbered([planes[axis] for axis in samples], samples, chosen)
    cells = sample * len(at_time) + time
    counts = torch.bincount(cells, minlength=len(at_sample) * len(at_time))
    if bool((counts != counts[0]).any()):
        return None
    return Layout(
        shape=shape,
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
    is_same = axis.source.kind == "slots" and len(before) == 1 and before[0].size == axis.size
    return before[0] if is_same else axis


def _sorted(axes: Iterable[InputAxis]) -> list[InputAxis]:
    return sorted(axes, key=lambda axis: (axis.source.name, axis.number))


def _numbered(
    planes: Sequence[Tensor], axes: Sequence[InputAxis], chosen: Tensor
) -> tuple[Tensor, Tensor]:
    """For every chosen element the number of its group, and the place of every group."""
    keys, lines = torch.zeros_like(chosen), chosen.new_zeros(len(planes), len(chosen))
    for line, plane, axis in zip(lines, planes, axes, strict=True):
        line.copy_(plane.flatten()[chosen])
        keys = keys * axis.size + line
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
    """

    recording: Recording
    made_of: Sequence[Coordinates | None]
    names: list[str]
    rounding: float
    along: frozenset[InputAxis]
    _found: dict[Value, Layout | None] = field(init=False, default_factory=dict)

    def coordinates(self, value: Value) -> Coordinates | None:
        found: Coordinates | None = self.recording.seen.get(value)
        return found if value.dtype.is_floating_point else None

    @cached_property
    def _least(self) -> int:
        given = map(self._layout, self.recording.given)
        return min((one.sizes[0] * one.sizes[1] for one in given if one), default=0)

    def layout(self, value: Value) -> Layout | None:
        """The layout of a value; None unless each of its elements belongs to one token."""
        return self._layout(value) if value.shape.numel() >= self._least else None

    def _layout(self, value: Value) -> Layout | None:
        if value not in self._found:
            self._found[value] = layout_of(self.coordinates(value), self.along)
        return self._found[value]
