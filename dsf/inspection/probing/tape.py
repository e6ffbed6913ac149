"""Records the torch functions of a module, and runs them again with other numbers in one place.

Which elements of a tensor belong to which sample and token of the values.

A module's call operation by operation: where tensors pass, and with other numbers there.

A ``Tape`` repeats one call of a module and counts the torch functions that its code calls. A tensor
is known by the operation that puts it out, or as an argument of the call; a place where it is read,
by the operation that is given it. Both are the same in every repetition, whatever the code calls
its functions. ``Spot`` and ``Use`` are such places.
"""

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_unflatten

from dsf.inspection.capture.containers import times_written
from dsf.inspection.capture.isolation import isolated
from dsf.inspection.capture.module_stack import ModuleStack
from dsf.inspection.causal.coordinates import (
    MANY,
    NONE,
    Coordinates,
    InputAxis,
    Planes,
    Source,
    small,
)
from dsf.inspection.causal.operations import all_before, is_place
from dsf.inspection.causal.tracker import Tracker
from dsf.inspection.errors import UnreadableError

Arranged = Float[Tensor, "sample time channel"]
Places = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class Layout:
    """Which element of a tensor belongs to which sample and token.

    Attributes:
        order: the elements sorted by sample, then token; what is left is channels. Elements that
            belong to no token, such as padding, are left out.
        sizes: samples, tokens and channels.
        sample_axes, token_axes: the axes of the model's inputs that they are counted along.
        samples, tokens: the place of each of them along these axes.
    """

    shape: torch.Size
    order: Tensor
    sizes: tuple[int, int, int]
    sample_axes: tuple[InputAxis, ...]
    token_axes: tuple[InputAxis, ...]
    samples: Places
    tokens: Places

    def arranged(self, tensor: Tensor) -> Arranged:
        """The tensor as ``sample time channel``."""
        return tensor.flatten()[self.order].reshape(self.sizes)

    def laid_out(self, arranged: Arranged, like: Tensor) -> Tensor:
        """The inverse of ``arranged``; what belongs to no token is as in ``like``."""
        flat = like.detach().clone().flatten()
        flat[self.order] = arranged.flatten().to(like.dtype)
        return flat.reshape(like.shape)

    def fits(self, other: "Layout") -> bool:
        """Whether two tensors have the same samples and tokens."""
        mine = (self.sample_axes, self.token_axes, self.samples, self.tokens)
        return mine == (other.sample_axes, other.token_axes, other.samples, other.tokens)

    def own(self, cells: Sequence[Mapping[InputAxis, int | Tensor]]) -> Tensor:
        """Which tokens of which samples, ``sample time``, belong to one of some cells."""
        found = torch.zeros(self.sizes[:2], dtype=torch.bool)
        for cell in cells:
            if not any(axis in cell for axis in self.token_axes):
                continue
            rows = torch.tensor([_is_in(one, self.sample_axes, cell) for one in self.samples])
            columns = torch.tensor([_is_in(one, self.token_axes, cell) for one in self.tokens])
            found |= rows[:, None] & columns
        return found

    def placed(self, shape: torch.Size, sample: int | None, token: int) -> "Layout":
        """The layout of another tensor with these samples and tokens.

        Args:
            sample: its axis of samples, which may hold heads inside of each; None for one sample.
            token: its axis of tokens.
        """
        samples, tokens, _ = self.sizes
        order = torch.arange(shape.numel()).reshape(shape)
        if sample is None:
            order = order.movedim(token, 0)
        else:
            order = order.unflatten(sample, (samples, -1))
            order = order.movedim((sample, token + int(token > sample)), (0, 1))
        order = order.flatten()
        sizes = (samples, tokens, len(order) // (samples * tokens))
        return replace(self, shape=shape, order=order, sizes=sizes)

    def is_plain(self) -> bool:
        """Whether no other axis has as many entries as there are tokens, or samples."""
        samples, tokens, _ = self.sizes
        sizes = [size for size in self.shape if size > 1]
        return sizes.count(tokens) == 1 and (samples == 1 or sizes.count(samples) == 1)


def _is_in(
    place: tuple[int, ...], axes: Sequence[InputAxis], cell: Mapping[InputAxis, int | Tensor]
) -> bool:
    """Whether a place is in a cell, which may have several along an axis."""
    pairs = ((cell.get(axis, at), at) for axis, at in zip(axes, place, strict=True))
    return all(bool(torch.any(torch.as_tensor(index) == at)) for index, at in pairs)


def layout_of(
    found: Coordinates | None,
    along: frozenset[InputAxis],
    beside: frozenset[InputAxis] = frozenset(),
) -> Layout | None:
    """The layout of a tensor; None unless each of its elements belongs to one token.

    Args:
        along: the axes of the inputs that count tokens; further axes of places count samples, but
            for one that holds channels.
        beside: axes of which only the first that counts no tokens counts samples, the others heads.
    """
    if found is None or not found.shape.numel():
        return None
    planes = by_tokens(found)
    tokens = tuple(axis for axis in _sorted(planes) if axis in along)
    if any(bool((planes[axis] >= 0).any()) for axis in tokens):  # what is summed up is no place
        tokens = tuple(axis for axis in tokens if not bool((small(planes[axis]) == MANY).all()))
    if not tokens:
        return None
    is_token = torch.ones((), dtype=torch.bool)
    for axis in tokens:
        if bool((planes[axis] == MANY).any()):
            return None
        is_token = is_token & (planes[axis] >= 0)
    chosen = is_token.expand(found.shape).flatten().nonzero().flatten()
    heads = sorted((axis for axis in beside - along), key=lambda axis: axis.number)[1:]
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
    """Axes of inputs that hold channels by their place, where no projection shows which do.

    Beside samples and tokens they come last, as in ``(sample, token, channel)``, ``(sample,
    channel, token)`` and ``(token, sample, channel)``; without samples behind the tokens.
    """
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
    """The layout of a tensor with the samples of some values and rows that are not their tokens.

    The rows are the other positions that its elements belong to, such as tokens of another
    sequence or groups; there is one where they belong to none. None where its elements belong to
    single tokens of the values, or not to single samples.
    """
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
    alike = tuple(axis for axis in rows if _follows(planes[axis].flatten()[chosen], sample))
    rows = tuple(axis for axis in rows if axis not in alike)
    samples = (*samples, *alike)
    made = _laid_out(found.shape, planes, chosen, samples, rows)
    if made is None:
        return None
    known = tuple(place[: len(values.sample_axes)] for place in made.samples)
    return made if known == values.samples else None


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


def _follows(index: Tensor, sample: Tensor) -> bool:
    """Whether an index is the same everywhere in a sample, as that of a second batch is."""
    pairs = torch.stack([index.long(), sample], dim=1).unique(dim=0)
    return len(pairs) == len(sample.unique())


def _before(axis: InputAxis) -> InputAxis:
    """The axis whose tokens weights sum up to as many: each stands where one of them stood."""
    before = list(axis.source.before)
    is_same = axis.source.kind == "slots" and len(before) == 1 and before[0].size == axis.size
    return before[0] if is_same else axis


def by_tokens(found: Coordinates) -> Planes:
    """The planes of a tensor, where sums over tokens stand in the places of tokens."""
    planes = {_before(axis): plane for axis, plane in found.planes.items()}
    return planes | {axis: plane for axis, plane in found.planes.items() if axis in planes}


def _sorted(axes: Iterable[InputAxis]) -> list[InputAxis]:
    return sorted(axes, key=lambda axis: (axis.source.name, axis.number))


def _numbered(
    planes: Sequence[Tensor], axes: Sequence[InputAxis], chosen: Tensor
) -> tuple[Tensor, Places]:
    """For every chosen element the number of its group, and the place of every group."""
    keys = torch.zeros_like(chosen)
    for plane, axis in zip(planes, axes, strict=True):
        keys = keys * axis.size + plane.flatten()[chosen].long()
    groups, numbers = torch.unique(keys, return_inverse=True)
    places = []
    for key in groups.tolist():
        place, rest = [], key
        for axis in reversed(axes):
            rest, index = divmod(rest, axis.size)
            place.append(index)
        places.append(tuple(reversed(place)))
    return numbers, tuple(places)


MOST_OPERATIONS = 20_000
"""A module that runs more torch operations than this in one call is not searched."""
GIVEN = -1
"""The number of the operation that stands for the arguments of the call."""


@dataclass(frozen=True)
class Spot:
    """A tensor: what operation number ``operation`` puts out as its ``index``-th one."""

    operation: int
    index: int = 0


@dataclass(frozen=True)
class Use:
    """A place where a tensor is read: the ``index``-th tensor given to an operation.

    ``operation`` is None for the output of the module.
    """

    operation: int | None
    index: int = 0


OUTPUT = Use(None)


@dataclass(frozen=True, eq=False)
class Operation:
    """One torch operation of the recorded call.

    Attributes:
        name: of the function.
        place: ``file:line`` of the code that called it.
        outs: the layouts of what it puts out; None for what has no single tokens.
        given: the same of what it is given, and the tensor it is, where that is known.
        shapes: of what it is given that holds real numbers; None for anything else.
        coordinates: of what it is given that has no layout, where they are known.
        is_view: whether it puts out a view of what it is given.
        is_written: whether it writes into what it is given.
        numbers: the smallest and the largest number that it puts out.
    """

    name: str
    place: str
    outs: tuple[Layout | None, ...]
    given: tuple[tuple[Layout | None, Spot | None], ...]
    shapes: tuple[torch.Size | None, ...]
    coordinates: tuple[Coordinates | None, ...]
    is_view: bool
    is_written: bool
    numbers: tuple[float, float]


@dataclass(eq=False)
class Record:
    """What was recorded of a call.

    Attributes:
        operations: by number; those that put out no tensor are left out.
        given: the layouts of the tensors that the call was given.
        output, output_shape: that of its output, and its shape.
        output_coordinates: those of an output that has no layout.
        uses: by tensor the places where it is read.
        made_by: by tensor the submodule that put it out.
        entered: the submodules in running order, each with its first argument and the number of
            operations before it.
    """

    operations: dict[int, Operation] = field(default_factory=dict)
    given: tuple[Layout | None, ...] = ()
    output: Layout | None = None
    output_shape: torch.Size | None = None
    output_coordinates: Coordinates | None = None
    uses: dict[Spot, list[Use]] = field(default_factory=dict)
    made_by: dict[Spot, str] = field(default_factory=dict)
    entered: list[tuple[str, Spot, int]] = field(default_factory=list)

    def layout_of(self, spot: Spot) -> Layout | None:
        """The layout of a tensor."""
        if spot.operation == GIVEN:
            return self.given[spot.index]
        return self.operations[spot.operation].outs[spot.index]

    def input_of(self, path: str) -> Use | None:
        """The place where a submodule reads its first argument; None if that is not known."""
        for name, spot, number in self.entered:
            uses = (use for use in self.uses.get(spot, ()) if use.operation is not None)
            if name == path:
                return next((use for use in uses if (use.operation or 0) > number), None)
        return None

    def submodule_given(self, use: Use) -> str:
        """The submodule whose input is read at a place; empty if there is none."""
        paths = [name for name, *_ in self.entered if self.input_of(name) == use]
        return paths[-1] if paths else ""

    def place_of(self, use: Use) -> Layout | None:
        """The layout of what is read at a place."""
        if use.operation is None:
            return self.output
        return self.operations[use.operation].given[use.index][0]


class Tape:
    """A call of a module that can be repeated with other numbers at some of its tensors.

    Args:
        guard: what every repetition runs in.

    Attributes:
        passes: how often it was repeated.
    """

    def __init__(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        guard: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ):
        self.module = module
        self._leaves, self._tree = tree_flatten((args, kwargs))
        self._guard = guard
        self.passes = 0

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that the call is given."""
        return _tensors(self._leaves)

    def run(self, mode: "Counting") -> Tensor:
        """The output of the call under a mode that counts its operations; of several the first."""
        self.passes += 1
        args, kwargs = tree_unflatten(self._leaves, self._tree)
        with isolated(self.module), self._guard():
            return mode.through(self.module, args, kwargs)

    def recorded(
        self, given: Sequence[Coordinates | None], *, told: Collection[Source] = ()
    ) -> Record:
        """The operations of the call, with the layouts of their tensors.

        Args:
            given: the coordinates of the tensors of the call.
            told: inputs with channels in the last axis: of what is left beside tokens, the first
                axis counts samples, others heads.

        Raises:
            UnreadableError: if the call is made of too many operations.
        """
        tracker = Tracker()
        axes = (axis for one in given if one is not None for axis in one.planes)
        beside = frozenset(axis for axis in axes if axis.source in told)
        mode = _Recording(tracker, self._mixed(given), beside)
        with ExitStack() as stack:
            for name, inner in self.module.named_modules():
                if name:
                    before, after = mode.hooks(name)
                    stack.callback(inner.register_forward_pre_hook(before).remove)
                    stack.callback(inner.register_forward_hook(after).remove)
            self._followed(tracker, given, mode)
        return mode.record

    def _mixed(self, given: Sequence[Coordinates | None]) -> frozenset[InputAxis]:
        """The axes along which the module mixes, and those that these were made from."""
        tracker = Tracker()
        self._followed(tracker, given, Counting())
        meetings = [one.meeting for one in tracker.mixings if is_place(one.meeting.axis)]
        sure = frozenset(one.axis for one in meetings if one.is_known and not one.chooses)
        met = sure or frozenset(one.axis for one in meetings)
        return met | frozenset(before for axis in met for before in all_before(axis))

    def _followed(
        self, tracker: Tracker, given: Sequence[Coordinates | None], mode: "Counting"
    ) -> None:
        where = ModuleStack(self.module, set())
        with where.followed(), tracker.following_on(where, self.tensors, given):
            self.run(mode)


def first_tensor(output: Any) -> Tensor:
    """The first tensor in what a module puts out.

    Raises:
        UnreadableError: if there is none.
    """
    found = _tensors(tree_flatten(output)[0])
    if not found:
        raise UnreadableError("it puts out no tensor")
    return found[0]


class Counting(TorchFunctionMode):
    """Counts the calls of torch functions."""

    def __init__(self) -> None:
        super().__init__()
        self._number = GIVEN

    def through(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The output of a module that is called under this mode; of several the first."""
        leaves, tree = tree_flatten((args, kwargs))
        args, kwargs = tree_unflatten(self.begin(leaves), tree)
        with self:
            output = module(*args, **kwargs)
        return self.end(first_tensor(output))

    def begin(self, leaves: list[Any]) -> list[Any]:
        """The arguments of the call, as it is to get them."""
        self._number = GIVEN
        return leaves

    def end(self, output: Tensor) -> Tensor:
        """The output of the call, as it is to be put out."""
        return output

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self._number += 1
        return self.called(self._number, func, args, kwargs or {})

    def called(
        self, _number: int, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        """What a function puts out."""
        return func(*args, **kwargs)


def _tensors(leaves: Iterable[Any]) -> list[Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


class _Recording(Counting):
    def __init__(self, tracker: Tracker, along: frozenset[InputAxis], beside: frozenset[InputAxis]):
        super().__init__()
        self.tracker, self._along, self._beside = tracker, along, beside
        self._known: dict[int, tuple[Tensor, Spot]] = {}
        self._least = 0
        self._layouts: dict[int, tuple[Tensor, int, Layout | None]] = {}
        self._of_shape: dict[torch.Size, Layout] = {}
        self.record = Record()

    def begin(self, leaves: list[Any]) -> list[Any]:
        given = _tensors(leaves)
        self.record.given = tuple(self._layout(each) for each in given)
        cells = [one.sizes[0] * one.sizes[1] for one in self.record.given if one is not None]
        self._least = min(cells, default=0)
        for k, each in enumerate(given):
            self._known.setdefault(id(each), (each, Spot(GIVEN, k)))
        return super().begin(leaves)

    def end(self, output: Tensor) -> Tensor:
        self.record.output = self._layout(output)
        self.record.output_shape = _shape(output)
        self.record.output_coordinates = self._coordinates(output, self.record.output)
        return output

    def _coordinates(self, tensor: Tensor, layout: Layout | None) -> Coordinates | None:
        if layout is not None or not tensor.is_floating_point():
            return None
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            return self.tracker.of(tensor)

    def _layout(self, tensor: Tensor) -> Layout | None:
        """The layout of a tensor.

        What a kernel writes past torch is taken to have its tokens where a tensor of the same shape
        had them, if sizes leave no other axis for them.
        """
        if not tensor.is_floating_point() or tensor.numel() < self._least:
            return None
        written = times_written(tensor)
        before = self._layouts.get(id(tensor))
        if before is not None and before[0] is tensor and before[1] == written:
            return before[2]
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            found = self._found_layout(tensor)
        self._layouts[id(tensor)] = tensor, written, found
        return found

    def _found_layout(self, tensor: Tensor) -> Layout | None:
        coordinates = self.tracker.of(tensor)
        if coordinates is None or self._is_lost(coordinates):
            like = self._of_shape.get(tensor.shape)
            return like if like is not None and like.is_plain() else None
        found = layout_of(coordinates, self._along, self._beside)
        if found is not None:
            self._of_shape[tensor.shape] = found
        return found

    def _is_lost(self, coordinates: Coordinates) -> bool:
        """Whether no element of a tensor is known to belong to any token, one or several."""
        planes = by_tokens(coordinates)
        along = [plane for axis, plane in planes.items() if axis in self._along]
        return bool(along) and all(bool((small(plane) == NONE).all()) for plane in along)

    def _spot(self, tensor: Tensor) -> Spot | None:
        entry = self._known.get(id(tensor))
        return entry[1] if entry is not None and entry[0] is tensor else None

    def called(
        self, number: int, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        given = _tensors(tree_flatten((args, kwargs))[0])
        before = tuple((self._layout(each), self._spot(each)) for each in given)
        pairs = zip(given, before, strict=True)
        coordinates = tuple(self._coordinates(each, layout) for each, (layout, _) in pairs)
        output = func(*args, **kwargs)
        outs = _tensors(tree_flatten(output)[0])
        name = getattr(func, "__name__", type(func).__name__)
        if not outs and name != "__setitem__":
            return output
        if len(self.record.operations) >= MOST_OPERATIONS:
            raise UnreadableError(
                f"one call of it runs more than {MOST_OPERATIONS} torch operations: name the ports "
                "where its values enter and its response leaves"
            )
        for k, (_, spot) in enumerate(before):
            if spot is not None:
                self.record.uses.setdefault(spot, []).append(Use(number, k))
        memory = {_memory(each) for each in given}
        made = tuple(self._layout(one) for one in outs)
        self.record.operations[number] = Operation(
            name=name,
            place=_caller(),
            outs=made,
            given=before,
            shapes=tuple(_shape(each) for each in given),
            coordinates=coordinates,
            is_view=any(_memory(one) in memory for one in outs),
            is_written=not outs or any(one is each for one in outs for each in given),
            numbers=_extremes(outs[0]) if outs and made[0] is not None else (0.0, 0.0),
        )
        for k, one in enumerate(outs):
            if self._spot(one) is None:
                self._known[id(one)] = one, Spot(number, k)
        return output

    def hooks(self, path: str) -> tuple[Callable[..., None], Callable[..., None]]:
        """Hooks that note which tensors a submodule is given and puts out."""

        def first(parts: Any) -> Spot | None:
            tensors = _tensors(tree_flatten(parts)[0])
            return self._spot(tensors[0]) if tensors else None

        def before(_module: nn.Module, args: tuple[Any, ...]) -> None:
            spot = first(args)
            if spot is not None:
                self.record.entered.append((path, spot, self._number))

        def after(_module: nn.Module, _args: Any, output: Any) -> None:
            spot = first(output)
            if spot is not None:
                self.record.made_by.setdefault(spot, path)

        return before, after


def _shape(tensor: Tensor) -> torch.Size | None:
    return tensor.shape if tensor.is_floating_point() else None


def _memory(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:  # a tensor without memory of its own, as inside of a vectorising transform
        return id(tensor)


def _extremes(tensor: Tensor) -> tuple[float, float]:
    return tensor.min().item(), tensor.max().item()


PASSED_THROUGH = ("/torch/", "/einops/", "/jaxtyping/")
"""Folders of code that calls torch for that of a module."""


def _caller() -> str:
    """``file:line`` of the innermost code outside of these folders and of this file."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path != __file__ and not any(folder in path for folder in PASSED_THROUGH):
            return f"{path.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


class Exchanging(Counting):
    """Puts other numbers in the place of one tensor, and reads or replaces others.

    Args:
        value: the tensor; None to leave all as they are.
        new: what takes its place, made from it.
        kept: places that are still given the original.
        readers: by place a function of what is read there; what it returns takes its place, unless
            that is None.
    """

    def __init__(
        self,
        value: Spot | None = None,
        new: Callable[[Tensor], Tensor] = lambda tensor: tensor,
        kept: Iterable[Use] = (),
        readers: Mapping[Use, Callable[[Tensor], Tensor | None]] | None = None,
    ):
        super().__init__()
        self._value, self._make = value, new
        self._kept, self._readers = frozenset(kept), dict(readers or {})
        self._watched = {use.operation for use in (*self._kept, *self._readers)}
        self._old: Tensor | None = None
        self._new: Tensor | None = None

    def begin(self, leaves: list[Any]) -> list[Any]:
        self._old = self._new = None
        leaves = super().begin(leaves)
        if self._value is None or self._value.operation != GIVEN:
            return leaves
        self._old = _tensors(leaves)[self._value.index]
        self._new = self._make(self._old)
        return [self._new if leaf is self._old else leaf for leaf in leaves]

    def end(self, output: Tensor) -> Tensor:
        reader = self._readers.get(OUTPUT)
        found = None if reader is None else reader(output)
        return output if found is None else found

    def called(
        self, number: int, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        if number in self._watched:
            leaves, tree = tree_flatten((args, kwargs))
            args, kwargs = tree_unflatten(self._read(number, leaves), tree)
        output = func(*args, **kwargs)
        if self._value is None or number != self._value.operation:
            return output
        outs, tree = tree_flatten(output)
        place = [k for k, one in enumerate(outs) if isinstance(one, Tensor)][self._value.index]
        self._old = outs[place]
        self._new = outs[place] = self._make(outs[place])
        return tree_unflatten(outs, tree)

    def _read(self, number: int, leaves: list[Any]) -> list[Any]:
        index = GIVEN
        for place, leaf in enumerate(leaves):
            if not isinstance(leaf, Tensor):
                continue
            index += 1
            use = Use(number, index)
            if leaf is self._new and use in self._kept:
                leaves[place] = self._old
            if use in self._readers:
                found = self._readers[use](leaves[place])
                leaves[place] = leaves[place] if found is None else found
        return leaves
