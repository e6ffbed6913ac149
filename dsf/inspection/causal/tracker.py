"""``Tracker``: follows, operation by operation, from which tokens every tensor of a run is made."""

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dsf.inspection.capture.calls import Invocation, begun, copied, storage_of, tensors_in
from dsf.inspection.capture.module_stack import ModuleStack
from dsf.inspection.causal import operations as ops
from dsf.inspection.causal.alike import ATTENTION, Steps
from dsf.inspection.causal.coordinates import (
    MANY,
    NONE,
    Coordinates,
    InputAxis,
    numbered,
    reduced,
    small,
    varies,
)
from dsf.inspection.causal.operations import Followed, Meeting, is_place
from dsf.inspection.causal.replay import UnclearError, cells_of, repeated


@dataclass(eq=False)
class _Holder:
    """The coordinates of a tensor that owns its memory, shared by all views of it.

    Attributes:
        is_decided: whether it holds truth values or whole numbers that numbers of tokens decided,
            such as which of them is the largest.
    """

    shape: torch.Size
    coordinates: Coordinates | None
    is_decided: bool = False


@dataclass(eq=False)
class _Entry:
    """A tensor of the run: a holder's numbers, moved.

    Attributes:
        known: the coordinates that the holder had when they were last moved, and the result.
    """

    tensor: Any
    holder: _Holder
    moves: tuple[Callable[[Tensor], Any], ...] = ()
    shapes: tuple[torch.Size, ...] = ()
    known: tuple[Coordinates | None, Coordinates | None] = (None, None)


@dataclass(eq=False)
class Mixing:
    """An operation of a module in which different tokens met.

    Attributes:
        module: the innermost module that was running.
        operation: its name in torch.
        time: when it ran, by the clock of the run.
        invocation: the forward pass of the module, copied so that it can be repeated.
    """

    module: nn.Module
    operation: str
    meeting: Meeting
    time: int
    invocation: Any


@dataclass(frozen=True, eq=False)
class Done:
    """An operation that ran: its function, arguments and outputs.

    Attributes:
        outs: the tensors of ``out``.
        first: the coordinates of its first argument.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    outs: list[Tensor]
    first: Coordinates | None

    @property
    def name(self) -> str:
        """The name of the operation in torch."""
        return str(self.func._schema.name.partition("::")[2])

    @property
    def plain(self) -> str:
        """The same for its form that writes in place."""
        return self.name.rstrip("_")


Rule = Callable[["Tracker", Done], Followed]


class _Leaving(TorchFunctionMode):
    """Tells of what is no operation: numbers handed over, and ``tensor.data = ...``."""

    def __init__(
        self, note: Callable[[Tensor], None], assigned: Callable[[Tensor, Tensor], None]
    ) -> None:
        super().__init__()
        self._note, self._assigned = note, assigned

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _HANDED_OVER:
            self._note(args[0])
        if func == _SET_DATA:
            self._assigned(*args)
        return func(*args, **(kwargs or {}))


class Tracker(TorchDispatchMode):
    """Follows coordinates from the inputs of a model through all operations of its run.

    Args:
        settled: the number of the axis of channels by the name of an input, where that is known.

    What it does never changes what the model computes; where it fails, it forgets the coordinates
    of that result.

    Attributes:
        mixings: the operations in which tokens met, in running order.
        unknown: names of operations without a rule, which were taken for ones that mix.
        is_asking: whether a module runs now that is only repeated.
        run: the forward pass of the model that was followed.
        steps: its operations.
    """

    def __init__(self, settled: Mapping[str, int] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._where: ModuleStack | None = None
        self._entries: dict[int, _Entry] = {}
        self.mixings: list[Mixing] = []
        self.unknown: set[str] = set()
        self._projections = ops.Projections(settled)
        self._waiting: list[tuple[Any, Mixing]] = []
        self._paused = 0
        self._is_looking = False  # hooks ask, too, and what that computes is no step of the run
        self.is_asking = False
        self.run: Invocation | None = None
        self.steps = Steps()

    @contextmanager
    def following(
        self,
        where: ModuleStack,
        model: nn.Module,
        inputs: tuple[Any, ...],
        named: Mapping[str, Any],
    ) -> Iterator[None]:
        """Follow what a model makes of these inputs inside the ``with`` block."""
        self._where = where
        args, kwargs = copied(inputs), copied(dict(named))
        for k, part in enumerate(inputs):
            self._number(part, f"input {k}")
        for name, part in named.items():
            self._number(part, name)
        given = [self.of(part) for part in tensors_in((inputs, dict(named)))]
        self.run = Invocation(model, args, kwargs, storage_of(model), given=given)
        self.steps.know((*model.buffers(), *tensors_in((inputs, dict(named)))))
        with self, _Leaving(self._leaves, self._assigned):
            yield

    def finish(self, output: Any) -> None:
        """Note what the model put out, for a run in which no tokens were seen to meet."""
        if self.run is not None and not self.mixings:
            self.run.finish(output, self.where)

    @contextmanager
    def following_on(
        self, where: ModuleStack, tensors: Sequence[Tensor], made: Sequence[Coordinates | None]
    ) -> Iterator[None]:
        """Follow what a module makes of these tensors, whose coordinates are known."""
        self._where = where
        for tensor, coordinates in zip(tensors, made, strict=True):
            self._set(tensor, coordinates)
        with self:
            yield

    def _number(self, part: Any, name: str) -> None:
        for k, tensor in enumerate(tensors_in(part)):
            self._set(tensor, numbered(tensor, f"{name}[{k}]" if k else name))

    @property
    def where(self) -> ModuleStack:
        """The modules of the run that was followed.

        Raises:
            RuntimeError: before any run.
        """
        if self._where is None:
            raise RuntimeError("Tracker: it has followed no run yet; call 'following' first.")
        return self._where

    @property
    def disputed(self) -> dict[str, int]:
        """By input the axis that holds its channels, where that was taken wrongly in this run."""
        return self._projections.disputed()

    def begin(self, frame: Any) -> None:
        """Note what a module is called with."""
        if not self._paused:
            self.steps.hand_over(frame.began - 1, tensors_in((frame.args, frame.kwargs)))

    def pause(self) -> None:
        """Stop following: a module begins that is read as a whole."""
        if self._paused == 0:
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self._paused += 1

    def resume(self, given: Any, output: Any) -> None:
        """Go on: that module has returned, and put out its tokens in the order it was given."""
        self._paused -= 1
        if self._paused == 0:
            self.__enter__()  # type: ignore[no-untyped-call]
        like = next((c for part in tensors_in(given) if (c := self.of(part)) is not None), None)
        if like is not None:
            for axis, plane in like.planes.items():
                if len(like.shape) > 1 and varies(plane, -1) and axis.source.kind == "input":
                    self._projections.are_channels(axis)
        self.steps.know(tensors_in(output))
        for part in tensors_in(output):
            if part.is_floating_point():
                self._set(part, None if like is None else ops.same_places(like, part.shape))

    def check_output(self, frame: Any, output: Any) -> None:
        """Note a module that puts out numbers of which it is not known what they are made of.

        It may compute them past torch, or from its weights alone; a repeated pass will show it.
        """
        given = [c for part in tensors_in((frame.args, frame.kwargs)) if (c := self.of(part))]
        axes = {axis for c in given for axis in c.planes if ops.is_place(axis)}
        where = self._where
        if not axes or where is None or self._paused or where.has_read_in(frame):
            return
        lost = [
            part
            for part in tensors_in(output)
            if (part.is_floating_point() or part.is_complex())
            and not axes & self._axes_of(part)
            and not isinstance(part, nn.Parameter)
        ]
        if not lost:
            return
        invocation = begun(frame, where)
        if self._is_constant(invocation):
            return
        how = "what it computes could not be followed"
        meeting = Meeting(next(iter(axes)), how, is_known=False)
        name = type(frame.module).__name__
        self.mixings.append(Mixing(frame.module, name, meeting, where.tick(), invocation))
        for part in lost:
            like = next((m for c in given if (m := ops.same_places(c, part.shape))), None)
            self._set(part, like)

    def _is_constant(self, invocation: Any) -> bool:
        """Whether a module puts out the same when a token of what it is given is replaced."""
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self.is_asking = True
        try:
            with torch._C.DisableTorchFunction():
                # Both passes are repeated, since casts inside of them are not guarded here.
                before = repeated(invocation, (), None)
                again = repeated(invocation, cells_of(invocation), None)
        except UnclearError:
            return False
        finally:
            self.is_asking = False
            self.__enter__()  # type: ignore[no-untyped-call]
        return again.shape == before.shape and torch.allclose(again, before, rtol=1e-5)

    def are_weights(self, left: Tensor, right: Tensor) -> bool:
        """Whether ``left`` weighs the tokens of ``right``, whatever made these weights.

        That is so where its rows are tokens, and its columns the tokens of the other factor: as a
        product of queries and keys has them, whatever was done to it since.
        """
        weights, value = self.of(left), self.of(right)
        if weights is None or value is None:
            return False
        rows = [axis for axis, p in weights.planes.items() if is_place(axis) and varies(p, -2)]
        read = [axis for axis, p in value.planes.items() if is_place(axis) and varies(p, -2)]
        return any(varies(weights.columns.get(axis), -1) for axis in read if axis in rows) or any(
            varies(weights.planes.get(axis), -1) and row.source is not axis.source
            for axis in read
            for row in rows
        )

    def _axes_of(self, tensor: Tensor) -> set[Any]:
        """The axes that a tensor comes from, also those that its positions were made from."""
        found = self.of(tensor)
        waiting, seen = list(found.planes) if found else [], set()
        while waiting:
            axis = waiting.pop()
            if axis not in seen:
                seen.add(axis)
                waiting += axis.source.before
        return seen

    # --- what is known of a tensor

    def of(self, tensor: Any) -> Coordinates | None:
        """The coordinates of a tensor; None if it comes from no input."""
        if not isinstance(tensor, Tensor):
            return None
        entry = self._entries.get(id(tensor))
        if entry is None or entry.tensor() is not tensor or entry.holder.coordinates is None:
            return None
        held = found = entry.holder.coordinates
        if entry.known[0] is held:
            return entry.known[1]
        was_looking, self._is_looking = self._is_looking, True
        try:
            for move, shape in zip(entry.moves, entry.shapes, strict=True):
                found = found.moved(move, shape)
        finally:
            self._is_looking = was_looking
        entry.known = (held, found)
        return found

    def _set(
        self, tensor: Tensor, coordinates: Coordinates | None, *, is_decided: bool = False
    ) -> None:
        self._remember(tensor, _Entry(None, _Holder(tensor.shape, coordinates, is_decided)))

    def _decides(self, tensor: Tensor) -> bool:
        """Whether a tensor holds numbers of tokens, or what was decided by such numbers.

        Ids and masks that the model is given do not: they say which tokens there are.
        """
        if tensor.is_floating_point() or tensor.is_complex():
            return self.of(tensor) is not None
        entry = self._entries.get(id(tensor))
        return entry is not None and entry.holder.is_decided

    def _remember(self, tensor: Tensor, entry: _Entry) -> None:
        key = id(tensor)
        entry.tensor = weakref.ref(tensor, partial(_forget, weakref.ref(self), key))
        self._entries[key] = entry

    # --- the run

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if self._is_looking:
            return out
        try:
            self.steps.add(self.where.time, func, args, kwargs, out)
            self._follow(func, args, kwargs, out)
        except Exception:  # a rule that does not fit must never end a run
            self._ask(func._schema.name.partition("::")[2], args)
        return out

    def _ask(self, name: str, args: tuple[Any, ...]) -> None:
        """Let the module be asked whether tokens met in an operation without a rule."""
        self.unknown.add(name)
        parts = [c for each in ops.tensors_in(args) if (c := self.of(each)) is not None]
        axes = dict.fromkeys(axis for c in parts for axis in c.planes if ops.is_place(axis))
        how = f"'{name}' could not be followed"
        self._note(name, [Meeting(axis, how, is_known=False) for axis in axes][:1])

    def _follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        name = func._schema.name.partition("::")[2]
        known = [self._entries.get(id(part)) for part in ops.tensors_in(args)]
        if not any(known):
            self._note_view(func, args, out)
            return
        if _views(func) and args and isinstance(args[0], Tensor):
            self._view(func, name, args, kwargs, out)
            return
        outs = [out] if isinstance(out, Tensor) else []
        if isinstance(out, tuple | list):
            outs = ops.tensors_in(out)
        if not outs:
            if name in _NUMBERS_OF_PYTHON:
                self._leaves(*ops.tensors_in(args))
            return
        given = [one for one in ops.tensors_in((*args, *kwargs.values())) if self._decides(one)]
        chosen = [one for one in given if self._entries[id(one)].holder.is_decided]
        followed = self._followed(Done(func, args, kwargs, out, outs, self.of(args[0])))
        writes = func._schema.arguments and _is_written(func._schema.arguments[0])
        for tensor, found in zip(outs, followed.outputs, strict=False):
            is_number = tensor.is_floating_point() or tensor.is_complex()
            exact = is_number or bool(given) or name in _WHOLE_NUMBERS
            if writes and tensor is args[0]:
                self._write(tensor, found if exact else None)
                if given and not is_number:
                    self._entries[id(tensor)].holder.is_decided = True
            elif found is not None and exact:
                is_decided = bool(given) and (not is_number or len(chosen) == len(given))
                self._set(tensor, found, is_decided=is_decided)
        meetings, numbers = followed.meetings, _numbers(outs)
        if chosen or not numbers:
            meetings = tuple(replace(one, chooses=True) for one in meetings)
        if numbers:
            self._note(name, meetings or self._dropped(name, args, numbers, followed))
        elif given:
            self._note(name, meetings)

    def _leaves(self, *tensors: Tensor) -> None:
        """Note numbers that a module takes out of torch, where nothing shows what it does next."""
        found = [c for one in tensors if self._decides(one) and (c := self.of(one)) is not None]
        axes = dict.fromkeys(axis for c in found for axis in c.planes if is_place(axis))
        how = "what it does with numbers that it takes out of torch could not be followed"
        made = [Meeting(axis, how, is_known=False, chooses=True) for axis in axes]
        if not self._paused:
            self._note("item", made[:1])

    def _assigned(self, tensor: Tensor, instead: Tensor) -> None:
        """A tensor holds from now on what another one does."""
        entry = self._entries.get(id(instead)) if self.of(instead) is not None else None
        if entry is None:
            self._set(tensor, None)
        else:
            self._remember(tensor, _Entry(None, entry.holder, entry.moves, entry.shapes))
        self.steps.assign(tensor, instead)

    def _dropped(
        self, name: str, args: tuple[Any, ...], outs: list[Tensor], followed: Followed
    ) -> tuple[Meeting, ...]:
        """What a rule forgot: it is asked of the module whether tokens met there."""
        plain = name.rstrip("_")
        if plain == "embedding" or _is_made_anew(plain) or not outs[0].numel():
            return ()
        kept = {axis for one in followed.outputs if one is not None for axis in one.planes}
        parts = [c for each in ops.tensors_in(args) if (c := self.of(each)) is not None]
        lost = [axis for c in parts for axis in c.planes if ops.is_place(axis) and not kept]
        how = f"'{plain}' could not be followed"
        return tuple(Meeting(axis, how, is_known=False) for axis in lost[:1])

    def _note(self, name: str, meetings: Sequence[Meeting]) -> None:
        where = self._where
        if not meetings or where is None or where.module is None:
            return
        if any(one.chooses for one in meetings) and _is_called_here():
            return
        frame = where.frame_of(where.module)
        if frame is None:
            return
        try:
            invocation = begun(frame, where)
        except RuntimeError:  # inside of a vectorising transform nothing can be copied
            invocation = None
        for meeting in meetings:
            mixing = Mixing(where.module, name, meeting, where.tick(), invocation)
            self.mixings.append(mixing)
            if invocation is None:
                self._waiting.append((frame, mixing))

    def settle(self, frame: Any) -> None:
        """Copy what a module was called with, where that could not be done while it ran."""
        mine = [mixing for one, mixing in self._waiting if one is frame]
        if not mine or self._where is None:
            return
        self._waiting = [pair for pair in self._waiting if pair[0] is not frame]
        for mixing in mine:
            mixing.invocation = begun(frame, self._where)

    def _note_view(self, func: Any, args: tuple[Any, ...], out: Any) -> None:
        """A view of memory that is written into later, such as a row of an output buffer."""
        if not (_views(func) and args and isinstance(args[0], Tensor)):
            return
        base = args[0]
        if isinstance(base, nn.Parameter):
            return
        self._remember(base, _Entry(None, _Holder(base.shape, None)))
        self._view(func, func._schema.name.partition("::")[2], args, {}, out)

    def _view(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        entry = self._entries.get(id(args[0]))
        if entry is None:
            return
        several = not isinstance(out, Tensor)
        for k, part in enumerate(out if several else (out,)):
            if not isinstance(part, Tensor):
                continue
            if name in ("view_as_real", "view_as_complex", "view") and part.dtype != args[0].dtype:
                self._reinterpreted(args[0], part, name)
                continue
            move = _move(func, name, args[1:], kwargs, part.shape, k if several else None)
            self._remember(
                part,
                _Entry(None, entry.holder, (*entry.moves, move), (*entry.shapes, part.shape)),
            )

    def _reinterpreted(self, given: Tensor, part: Tensor, name: str) -> None:
        found = self.of(given)
        if found is None:
            return
        if name == "view_as_real":
            self._set(part, found.moved(lambda p: p.unsqueeze(-1).expand(part.shape), part.shape))
        elif name == "view_as_complex":
            self._set(part, found.moved(lambda p: p[..., 0], part.shape))
        elif (like := ops.same_places(found, part.shape)) is not None:
            self._set(part, like, is_decided=not (part.is_floating_point() or part.is_complex()))

    def _write(self, tensor: Tensor, found: Coordinates | None) -> None:
        entry = self._entries.get(id(tensor))
        if entry is None or not entry.moves:
            self._set_in(tensor, entry, found)
            return
        holder = entry.holder
        base = holder.coordinates or Coordinates(holder.shape, {})
        axes = dict.fromkeys((*base.planes, *(found.planes if found else ())))
        planes = {}
        for axis in axes:
            plane = base.planes.get(axis)
            full = (
                torch.full(holder.shape, NONE, device=tensor.device)
                if plane is None
                else plane.clone(memory_format=torch.contiguous_format)
            )
            part = full
            for move in entry.moves:
                part = move(part)
            new = found.planes.get(axis) if found else None
            part.copy_(torch.full((), NONE) if new is None else new)
            planes[axis] = full
        holder.coordinates = Coordinates(holder.shape, planes, base.columns)

    def _set_in(self, tensor: Tensor, entry: _Entry | None, found: Coordinates | None) -> None:
        if entry is None:
            self._set(tensor, found)
        else:
            entry.holder.coordinates = found

    def _followed(self, done: Done) -> Followed:
        rule = _RULES.get(done.plain)
        if rule is not None:
            return rule(self, done)
        if _is_made_anew(done.plain):
            return Followed((None,))
        if ops.is_pointwise(done.func):
            return ops.pointwise(self.of, done.name, done.args, done.kwargs, tuple(done.outs))
        if "scaled_dot_product" in done.plain:
            return self._attention(done)
        return self._unknown(done)

    # --- the rules

    def _copied(self, done: Done) -> Followed:
        source = self.of(done.args[1])
        return Followed((None if source is None else source.expanded(done.outs[0].shape),))

    def _moved(self, done: Done) -> Followed:
        found = ops.moved(self.of, done.plain, done.func, done.args, done.kwargs, done.out)
        if isinstance(found, list):
            return Followed(tuple(found))
        return Followed((found or self._of_index(done),), self._chosen(done, found))

    def _deciding(self, done: Done) -> Iterator[tuple[InputAxis, Tensor]]:
        """The planes of the tokens that decide which elements an operation takes or writes into."""
        for places in ops.chosen_places(done.plain, done.args):
            by = self.of(places.tensor) if self._decides(places.tensor) else None
            for axis, plane in (by.planes if by is not None else {}).items():
                yield axis, places.laid(plane)

    def _of_index(self, done: Done) -> Coordinates | None:
        """Those of what an index takes out of a table that comes from no input."""
        shape = done.outs[0].shape
        planes = {axis: plane.expand(shape) for axis, plane in self._deciding(done)}
        return Coordinates(shape, planes) if planes else None

    def _chosen(self, done: Done, *taken: Coordinates | None) -> tuple[Meeting, ...]:
        """Elements that are taken, or written into, because of what other tokens hold.

        Args:
            taken: the coordinates of these elements.
        """
        meetings: dict[InputAxis, Meeting] = {}
        for axis, plane in self._deciding(done):
            others = [one.planes.get(axis) for one in taken if one is not None] or [None]
            if is_place(axis) and any(ops.is_others_choice(plane, one) for one in others):
                meetings[axis] = Meeting(axis, "tokens choose one another", chooses=True)
        return tuple(meetings.values())

    def _kept(self, done: Done) -> Followed:
        first = done.first
        found = first if first is not None and first.shape == done.outs[0].shape else None
        return Followed((found,) + (None,) * (len(done.outs) - 1))

    def _padded(self, done: Done) -> Followed:
        first, pads = done.first, done.args[1]
        if first is None:
            return Followed((None,))
        shape = done.outs[0].shape
        return Followed((first.moved(lambda p: torch.constant_pad_nd(p, pads, NONE), shape),))

    def _strided(self, done: Done) -> Followed:
        first, out = done.first, done.outs[0]
        if first is None or first.shape.numel() != out.numel():
            return self._unknown(done)
        return Followed((first.moved(lambda p: p.reshape(out.shape), out.shape),))

    def _embedded(self, done: Done) -> Followed:
        ids, shape = self.of(done.args[1]), done.outs[0].shape
        if ids is None:
            return Followed((None,))
        return Followed((ids.moved(lambda p: p.unsqueeze(-1).expand(shape), shape),))

    def _attention(self, done: Done) -> Followed:
        first, shape = done.first, done.outs[0].shape
        if first is None:
            return self._read_by_weights(done)
        made = first.moved(lambda p: p[..., :1].expand(shape), shape)
        inner = [Meeting(a, ATTENTION) for a in first.planes if varies(first.planes[a], -2)]
        return Followed((made,) + (None,) * (len(done.outs) - 1), tuple(inner))

    def _read_by_weights(self, done: Done) -> Followed:
        """What queries that come from no input read: each of them many tokens."""
        value, out = self.of(done.args[2]), done.outs[0]
        if value is None:
            return self._unknown(done)
        planes, meetings = {}, []
        for axis, plane in value.planes.items():
            line, several = reduced(plane, [-2, -1])
            planes[axis] = line[..., :1, :1].expand(out.shape)
            if several and not self._projections.are_channels(axis):
                meetings.append(Meeting(axis, ATTENTION))
        nothing = (None,) * (len(done.outs) - 1)
        return Followed((Coordinates(out.shape, planes), *nothing), tuple(meetings))

    def _norm(self, done: Done) -> Followed:
        return self._normalised(done.first, range(-len(done.args[1]), 0), done.outs)

    def _batch_norm(self, done: Done) -> Followed:
        """With stored statistics every element by itself; else all that share a channel."""
        if not next((one for one in done.args if isinstance(one, bool)), True):
            return self._kept(done)
        others = [dim for dim in range(done.outs[0].ndim) if dim != 1]
        return self._normalised(done.first, others, done.outs)

    def _group_norm(self, done: Done) -> Followed:
        return self._normalised(done.first, range(1, done.outs[0].ndim), done.outs)

    def _softmax(self, done: Done) -> Followed:
        return self._along(done.first, [done.args[1]], done.outs, "a softmax over tokens")

    def _running_total(self, done: Done) -> Followed:
        return self._along(done.first, [done.args[1]], done.outs, f"'{done.plain}' over tokens")

    def _sorted(self, done: Done) -> Followed:
        if done.first is None or len(done.outs) != 2:
            return self._unknown(done)
        values, places = done.outs
        dim = _given(done.args, done.kwargs, 2 if done.plain == "topk" else 1, "dim", -1)
        made = done.first.moved(lambda p: p.gather(dim, places), values.shape)
        order = ops.summed(done.first, [dim], True, places.narrow(dim, 0, 1).shape)
        meetings = [
            Meeting(axis, f"'{done.plain}' orders tokens", chooses=True)
            for axis, plane in done.first.planes.items()
            if varies(plane, dim)
        ]
        return Followed((made, order.expanded(places.shape)), tuple(meetings))

    def _joined(self, done: Done) -> Followed:
        return Followed((self._laid(done),))

    def _laid(self, done: Done) -> Coordinates | None:
        args, out = done.args, done.outs[0]
        dim = _given(args, done.kwargs, 1, "dim", 0)
        if done.plain == "cat":
            return ops.joined(self.of, args[0], dim, out)
        dim = dim % out.ndim
        parts = [part.unsqueeze(dim) for part in args[0]]
        lifted = {
            id(new): found.moved(lambda p: p.unsqueeze(dim), new.shape)
            for new, old in zip(parts, args[0], strict=True)
            if (found := self.of(old)) is not None
        }
        return ops.joined(lambda part: lifted.get(id(part)), parts, dim, out)

    def _product(self, done: Done) -> Followed:
        name, args, out = done.plain, done.args, done.outs[0]
        find, are_channels = self.of, self._projections.are_channels
        rest = args
        if name in ("addmm", "baddbmm", "addmv", "addbmm"):
            rest = args[1:]
        left, right = find(rest[0]), find(rest[1])
        if name == "linear":
            right = None if right is None else right.moved(lambda p: p.mT, rest[1].mT.shape)
        shape = out.shape
        if name in ("mv", "addmv", "dot", "vdot"):
            if right is not None:
                right = right.moved(lambda p: p.unsqueeze(-1), rest[1].unsqueeze(-1).shape)
            if name in ("dot", "vdot") and left is not None:
                left = left.moved(lambda p: p.unsqueeze(0), rest[0].unsqueeze(0).shape)
            made = ops.product(left, right, torch.Size((*shape, 1)), are_channels)
            found = made.outputs[0]
            flat = found.moved(lambda p: p.reshape(shape), shape) if found else None
            return Followed((flat,), made.meetings)
        made = ops.product(left, right, shape, are_channels)
        added = find(args[0]) if rest is not args else None
        if added is None or made.outputs[0] is None:
            return made
        both = ops.together([made.outputs[0], added.expanded(shape)], shape, "a sum joins tokens")
        return Followed(both.outputs, made.meetings + both.meetings)

    def _convolved(self, done: Done) -> Followed:
        given, weight, _, stride, padding, dilation, transposed, _, groups = done.args[:9]
        found, out = self.of(given), done.outs[0]
        if found is None or given.ndim != out.ndim or given.ndim < 3:
            return self._unknown(done)
        window = ops.Window.of(
            "convolution",
            weight.shape[2:],
            (stride, padding, dilation),
            transposed=transposed,
            depthwise=groups == given.shape[1],
            groups=groups,
        )
        return ops.convolved(found, window, out.shape, self._projections.are_channels)

    def _pooled(self, done: Done) -> Followed:
        first, args, shape = done.first, done.args, done.outs[0].shape
        places = int(done.plain.partition("pool")[2][:1])
        if first is None or len(first.shape) != places + 2:
            return self._unknown(done)
        nothing = (None,) * (len(done.outs) - 1)
        if "adaptive" in done.plain:
            made = self._resized(done)
            return Followed((made.outputs[0], *nothing), made.meetings)
        kernel = (list(args[1]) * places)[:places]
        stride = args[2] if len(args) > 2 and args[2] else kernel
        padding = args[3] if len(args) > 3 and isinstance(args[3], list | tuple) else [0]
        dilation = args[4] if len(args) > 4 and isinstance(args[4], list | tuple) else [1]
        name = done.plain.partition("_with")[0]
        window = ops.Window.of(name, kernel, (stride, padding, dilation), depthwise=True)
        made = ops.convolved(first, window, shape, self._projections.are_channels)
        return Followed((made.outputs[0], *nothing), made.meetings)

    def _resized(self, done: Done) -> Followed:
        """Positions behind the second axis that are made anew, such as by interpolation."""
        first, shape = done.first, done.outs[0].shape
        if first is None or len(first.shape) != len(shape):
            return self._unknown(done)
        places = range(2, len(shape))
        changed = {
            axis: next(k for k in places if varies(plane, k)) - 2
            for axis, plane in first.planes.items()
            if any(varies(plane, k) for k in places)
        }
        planes = {
            axis: _first_of(plane, places).expand(shape)
            for axis, plane in first.planes.items()
            if axis not in changed
        }
        if changed:
            planes |= ops.new_positions(changed, shape, done.plain, done.outs[0].device)
        how = f"'{done.plain.strip('_')}' makes new tokens of groups"
        meetings = tuple(Meeting(axis, how) for axis in changed)
        return Followed((Coordinates(shape, planes),), meetings)

    def _normalised(
        self, given: Coordinates | None, dims: Sequence[int], outs: list[Tensor]
    ) -> Followed:
        nothing = (None,) * (len(outs) - 1)
        if given is None:
            return Followed((None, *nothing))
        meetings = []
        for axis, plane in given.planes.items():
            if reduced(plane, [dim % plane.ndim for dim in dims])[1] and not (
                self._projections.are_channels(axis)
            ):
                meetings.append(Meeting(axis, "a norm over tokens"))
        return Followed((given, *nothing), tuple(meetings))

    def _along(
        self, given: Coordinates | None, dims: Sequence[int], outs: list[Tensor], how: str
    ) -> Followed:
        """An operation that keeps the shape and lets elements along ``dims`` meet."""
        if given is None:
            return Followed((None,) * len(outs))
        meetings = [
            Meeting(axis, how)
            for axis, plane in given.planes.items()
            if reduced(plane, [dim % plane.ndim for dim in dims])[1]
        ]
        return Followed((given,) * len(outs), tuple(meetings))

    def _transformed(self, done: Done) -> Followed:
        given, dims, out = done.first, done.args[1], done.outs[0]
        planes, meetings = {}, []
        if given is None:
            return Followed((None,))
        back = _transformed_back(done, given)
        for axis, plane in given.planes.items():
            if axis is back:
                index = torch.arange(out.shape[dims[0]], dtype=torch.float32, device=out.device)
                index = torch.where(index < axis.size, index, NONE)
                behind = [1] * (-1 - dims[0] % out.ndim + out.ndim)
                planes[axis] = index.reshape(-1, *behind).expand(out.shape)
                continue
            if any(varies(plane, dim) for dim in dims):
                meetings.append(Meeting(axis, "a Fourier transform over tokens"))
                same = plane.shape == out.shape
                planes[axis] = (
                    plane if same else torch.full((), MANY, device=out.device).expand(out.shape)
                )
            else:
                short, _ = reduced(plane, [dim % plane.ndim for dim in dims])
                for dim in dims:
                    short = short.narrow(dim, 0, 1)
                planes[axis] = short.expand(out.shape)
        return Followed((Coordinates(out.shape, planes),), tuple(meetings))

    def _reduced(self, done: Done) -> Followed:
        name, given, args, outs = done.plain, done.first, done.args, done.outs
        kwargs = done.kwargs
        if given is None:
            return Followed((None,) * len(outs))
        place = 2 if name in ("linalg_vector_norm", "norm") else 1
        dims = _given(args, kwargs, place, "dim", None)
        if isinstance(dims, int):
            dims = [dims]
        if not isinstance(dims, list | tuple) or not dims:
            dims = list(range(len(given.shape)))
        wanted = len(outs[0].shape)
        keepdim = wanted == len(given.shape)
        made = ops.summed(given, dims, keepdim, outs[0].shape)
        for axis, plane in given.planes.items():
            if reduced(plane, [d % plane.ndim for d in dims])[1]:
                axis.source.summed.setdefault(axis, 0)
                if axis.source.channels is axis and axis in made.planes:
                    made = made.without(axis)
        return Followed((made,) * len(outs))

    def _scattered(self, done: Done) -> Followed:
        """Numbers written to places that an index names."""
        name, args, kwargs, out = done.plain, done.args, done.kwargs, done.outs[0]
        into = self.of(args[0])
        place = 2 if name in ("index_put", "_index_put_impl", "_unsafe_index_put") else 3
        source = args[place] if len(args) > place else kwargs.get("source", kwargs.get("src"))
        found = self.of(source)
        axes = dict.fromkeys((*(into.planes if into else ()), *(found.planes if found else ())))
        planes, meetings = {}, []
        for axis in axes:
            base = into.planes.get(axis) if into else None
            full = (
                torch.full(out.shape, NONE, device=out.device)
                if base is None
                else base.clone(memory_format=torch.contiguous_format)
            )
            new = found.planes.get(axis) if found else None
            if new is not None:
                before, there = full.clone(), _place_named(name, place, args)
                new = there.fitted(new)
                there.write(full, new)
                if len(args) > place and _adds_up(name, args, kwargs) and is_place(axis):
                    landed = there.read(full)
                    under = there.read(before)
                    several = (landed != new) | ((under >= 0) & (landed >= 0) & (under != landed))
                    if bool(several.any()):
                        meetings.append(Meeting(axis, f"'{name}' sums what lands in one place"))
                        given = [*args]
                        given[0], given[place] = torch.zeros_like(full), several.to(full)
                        full = torch.where(done.func(*given, **kwargs) > 0, MANY, full)
            planes[axis] = full
        there = _place_named(name, place, args)
        unshaped = torch.Size(())  # only their planes are asked for
        left = None if into is None else into.moved(there.read, unshaped)
        written = None if found is None else found.moved(there.fitted, unshaped)
        chosen = self._chosen(done, left, written)
        return Followed((Coordinates(out.shape, planes),), (*meetings, *chosen))

    def _unknown(self, done: Done) -> Followed:
        """An operation without a rule is taken for one that mixes what it is given."""
        name, args, outs = done.plain, done.args, done.outs
        self.unknown.add(name)
        parts = [c for each in ops.tensors_in(args) if (c := self.of(each)) is not None]
        same = next((c for c in parts if c.shape == outs[0].shape), None)
        meetings = [
            Meeting(axis, f"'{name}', which is not known", is_known=False)
            for part in parts
            for axis in part.planes
            if part.planes[axis].max() > part.planes[axis].min()
        ]
        return Followed((same,) + (None,) * (len(outs) - 1), tuple(meetings))


_HANDED_OVER = {Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__}
_HANDED_OVER |= {Tensor.data_ptr, Tensor.untyped_storage}
_SET_DATA = vars(torch._C.TensorBase)["data"].__set__
_NUMBERS_OF_PYTHON = {"_local_scalar_dense", "equal"}
_MADE_ANEW = {"fill", "zero", "bernoulli", "normal", "uniform", "random"}
_WHOLE_NUMBERS = ops.MOVES | ops.RESHAPES | {"cat", "stack", "clone", "constant_pad_nd", "copy_"}
_BATCH_NORMS = {"batch_norm", "native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm"}
_BATCH_NORMS |= {"_batch_norm_with_update", "_batch_norm_with_update_functional"}
_PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "linear", "mv", "addmv", "dot", "vdot"}
_TRANSFORMS = {"_fft_c2c", "_fft_r2c", "_fft_c2r"}
_RUNNING = {"cumsum", "cumprod", "logcumsumexp", "cummax", "cummin"}
_SOFTMAXES = {"_softmax", "_safe_softmax", "_log_softmax", "softmax", "log_softmax"}
_RESIZES = {f"upsample_{kind}{k}d" for kind in ("linear", "bilinear", "nearest") for k in (1, 2)}
_RESIZES |= {"upsample_bicubic2d", "upsample_trilinear3d", "_upsample_bicubic2d_aa"}
_SCATTERS = {"index_put", "_index_put_impl", "_unsafe_index_put", "index_copy", "index_add"}
_SCATTERS |= {"scatter", "scatter_add", "scatter_reduce", "index_fill"}
_POOLS = {f"{kind}_pool{k}d" for kind in ("avg", "max") for k in (1, 2, 3)}
_POOLS |= {f"_adaptive_avg_pool{k}d" for k in (2, 3)} | {"max_pool2d_with_indices"}
_POOLS |= {"adaptive_max_pool2d", "max_pool3d_with_indices", "adaptive_avg_pool1d"}
_REDUCTIONS = {"sum", "mean", "var", "std", "amax", "amin", "max", "min", "prod", "logsumexp"}
_REDUCTIONS |= {"linalg_vector_norm", "norm", "argmax", "argmin", "any", "all", "var_mean"}
_REDUCTIONS |= {"std_mean", "median", "nansum", "sum_to_size", "aminmax"}


@dataclass(frozen=True)
class _Place:
    """The places that an index names: how they are written into, and what lies in them.

    Attributes:
        fitted: the part of a tensor that the index names places for.
    """

    write: Callable[[Tensor, Tensor], Any]
    read: Callable[[Tensor], Tensor]
    fitted: Callable[[Tensor], Tensor] = Tensor.contiguous


def _place_named(name: str, place: int, args: tuple[Any, ...]) -> _Place:
    if place == 2:
        index = tuple(args[1])
        return _Place(lambda full, new: full.index_put_(index, new), lambda full: full[index])
    dim, index = args[1], args[2]
    if name.startswith("index"):
        return _Place(
            lambda full, new: full.index_copy_(dim, index, new),
            lambda full: full.index_select(dim, index),
        )
    part = tuple(slice(size) for size in index.shape)
    return _Place(
        lambda full, new: full.scatter_(dim, index, new),
        lambda full: full.gather(dim, index),
        lambda new: new[part].contiguous(),
    )


def _adds_up(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether what lands in one place is summed there, rather than replaced."""
    plain = name.strip("_")
    if plain in ("index_put", "index_put_impl", "unsafe_index_put"):
        return bool(_given(args, kwargs, 3, "accumulate", False))
    return plain in ("index_add", "scatter_add", "scatter_reduce") or "reduce" in kwargs


def _numbers(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [one for one in tensors if one.is_floating_point() or one.is_complex()]


def _views(func: Any) -> bool:
    """Whether an operation returns a view of its first argument."""
    returns = func._schema.returns
    alias = returns[0].alias_info if returns else None
    return alias is not None and not alias.is_write


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _move(
    func: Any,
    name: str,
    rest: tuple[Any, ...],
    kwargs: dict[str, Any],
    shape: torch.Size,
    which: int | None,
) -> Callable[[Tensor], Any]:
    if name in ops.RESHAPES:
        return lambda plane: plane.reshape(shape)
    if name in ops.KEEPS:
        return lambda plane: plane
    if name == "as_strided":
        return lambda plane: func(plane.contiguous(), *rest, **kwargs)
    if which is None:
        return lambda plane: func(plane, *rest, **kwargs)
    return lambda plane: func(plane, *rest, **kwargs)[which]


_HERE = str(Path(__file__).parent.parent)


def _is_called_here() -> bool:
    """Whether an operation was called by the code that records a run, and not by the model.

    Between that code and an operation of the model lies a call of a module.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "_call_impl":
            return False
        is_mode = code.co_name in ("__torch_function__", "__torch_dispatch__")
        if code.co_filename.startswith(_HERE) and code.co_filename != __file__ and not is_mode:
            return True
        frame = frame.f_back
    return False


def _is_made_anew(name: str) -> bool:
    """Whether an operation makes a tensor from none of the numbers of another."""
    return name in _MADE_ANEW or name.startswith("new_") or name.endswith("_like")


def _transformed_back(done: Done, given: Coordinates) -> Any:
    """The axis whose tokens an inverse Fourier transform puts back in their places, if any."""
    is_inverse = done.plain == "_fft_c2r" or (done.plain == "_fft_c2c" and not done.args[3])
    lost = [
        axis
        for axis, plane in given.planes.items()
        if ops.is_place(axis) and bool((small(plane) == MANY).all())
    ]
    fits = len(done.args[1]) == len(lost) == 1
    return lost[0] if is_inverse and fits else None


def _first_of(plane: Tensor, dims: Sequence[int]) -> Tensor:
    for dim in dims:
        plane = plane.narrow(dim, 0, 1)
    return plane


def _given(
    args: tuple[Any, ...], kwargs: dict[str, Any], place: int, name: str, default: Any
) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


def _forget(tracker: "Callable[[], Tracker | None]", key: int, _: Any) -> None:
    """A tensor of the run is gone; the tracker is not kept alive by what waits for that."""
    if (alive := tracker()) is not None:
        alive._entries.pop(key, None)


_RULES: dict[str, Rule] = {
    **dict.fromkeys((*ops.RESHAPES, *ops.MOVES), Tracker._moved),
    **dict.fromkeys(ops.KEEPS, Tracker._kept),
    **dict.fromkeys(_PRODUCTS, Tracker._product),
    **dict.fromkeys(_SCATTERS, Tracker._scattered),
    **dict.fromkeys(_REDUCTIONS, Tracker._reduced),
    **dict.fromkeys(_POOLS, Tracker._pooled),
    **dict.fromkeys(_RESIZES, Tracker._resized),
    **dict.fromkeys(_TRANSFORMS, Tracker._transformed),
    **dict.fromkeys(_RUNNING, Tracker._running_total),
    **dict.fromkeys(_SOFTMAXES, Tracker._softmax),
    **dict.fromkeys(("native_layer_norm", "_fused_rms_norm", "rms_norm"), Tracker._norm),
    "copy": Tracker._copied,
    "cat": Tracker._joined,
    "stack": Tracker._joined,
    "constant_pad_nd": Tracker._padded,
    "as_strided": Tracker._strided,
    "embedding": Tracker._embedded,
    "convolution": Tracker._convolved,
    "native_group_norm": Tracker._group_norm,
    **dict.fromkeys(_BATCH_NORMS, Tracker._batch_norm),
    "sort": Tracker._sorted,
    "topk": Tracker._sorted,
}
"""How each operation is followed: functions, since bound methods would keep a tracker alive."""
