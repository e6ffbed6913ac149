"""``Tracker``: follows, operation by operation, from which tokens every tensor of a run is made."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves

from dsf.inspection.capture.calls import (
    Invocation,
    begun,
    copied,
    given_to,
    storage_of,
    time_axis,
)
from dsf.inspection.capture.containers import are_numbers, memory_key, memory_of, tensors_in
from dsf.inspection.capture.modes import Heard, unheard
from dsf.inspection.capture.module_stack import Frame, ModuleStack, autocast_now
from dsf.inspection.causal import rules
from dsf.inspection.causal.coordinates import (
    MANY,
    Coordinates,
    InputAxis,
    KnownTensors,
    all_before,
    is_place,
    numbered,
    small,
    varies,
)
from dsf.inspection.causal.replay import cells_drawn, repetition
from dsf.inspection.causal.rules import Done, Meeting, Way
from dsf.inspection.recording import (
    MADE_EMPTY,
    Leaving,
    is_ours,
    size_chosen_by,
    written_places,
)


@dataclass(eq=False)
class TokenMixing:
    """An operation of a module in which different tokens met."""

    module: nn.Module
    operation: str
    meeting: Meeting
    time: int
    invocation: Any


class Kept:
    """A tensor that a run read, with all bytes that its memory held then."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor, self._bytes = tensor, self._now(tensor)
        self.is_whole = not are_numbers(tensor)

    @staticmethod
    def _now(tensor: Tensor) -> Tensor | None:
        storage = memory_of(tensor)
        if storage is None or tensor.is_meta:
            return None
        return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage).clone()

    def is_constant(self, read: Collection[int]) -> bool:
        """Whether runs that read memory with these keys have read it again, and left it alone."""
        now = self._now(self._tensor)
        is_same = now is not None and self._bytes is not None and torch.equal(now, self._bytes)
        return is_same and memory_key(self._tensor) in read


def state_left(module: nn.RNNBase, like: Coordinates, shape: torch.Size) -> Coordinates | None:
    """The coordinates of the state that a recurrence of torch leaves: those of its last token."""
    if len(like.shape) != len(shape):  # packed sequences
        return None
    time = time_axis(module, len(shape))
    ends = (-1, 0) if module.bidirectional else (-1,)
    planes = {}
    for axis, plane in like.planes.items():
        if not varies(plane, -1):
            lines = [plane.select(time, end)[..., :1] for end in ends]
            planes[axis] = torch.stack(lines * (shape[0] // len(ends))).expand(shape)
    return Coordinates(shape, planes)


def scores_left(
    module: nn.MultiheadAttention, query: Coordinates, key: Coordinates, shape: torch.Size
) -> Coordinates | None:
    """The coordinates of the weights that an attention of torch returns: of rows and columns."""

    def line(part: Coordinates) -> Coordinates:
        is_turned = len(part.shape) == 3 and not module.batch_first
        planes = {}
        for axis, plane in part.planes.items():
            if not varies(plane, -1):
                rows = (plane.transpose(0, 1) if is_turned else plane)[..., :1]
                planes[axis] = rows.unsqueeze(-3) if rows.ndim < len(shape) else rows
        return Coordinates(shape, planes)

    keys = line(key).moved(lambda plane: plane.mT, shape)
    return rules.product(line(query), keys, shape, lambda _: True).outputs[0]


def _is_plain(part: Any) -> bool:
    """Whether an argument holds no numbers but in tensors: no list of them, no object."""
    plain = (Tensor, nn.Parameter, bool, str, type(None))
    return type(part) in (int, float) or all(type(one) in plain for one in tree_leaves(part))


class Tracker:
    """Follows coordinates from the inputs of a model through all operations of its run.

    What it does never changes what the model computes; where it fails, it forgets the coordinates
    of that result.

    Attributes:
        is_asking: whether a module runs now that is only repeated.
        is_sure: whether all that the run computed with came from tokens, weights and constants that
            were followed: no other thread, no compiled code, no object, no computed id had a part.
        gives_many: whether a module that is read as a whole was given what is made of many tokens.
    """

    def __init__(self, settled: Mapping[str, int] | None = None, tokens: int | None = None) -> None:
        self._mode: Heard | None = None
        self._stopped: Heard | None = None
        self.where = ModuleStack(nn.Module(), set())
        self._known = KnownTensors()
        self.projections = rules.Projections(settled, tokens)
        self.rules = rules.Rules(self._known, self.projections)
        self.mixings: list[TokenMixing] = []
        self._waiting: list[tuple[Any, TokenMixing]] = []
        self._paused = 0
        self._repeats = True
        self.is_asking = False
        self.run: Invocation | None = None
        self.is_sure = False
        self.gives_many = False
        self._unknown: dict[int, Kept] = {}

    @contextmanager
    def following(
        self,
        where: ModuleStack,
        model: nn.Module,
        inputs: tuple[Any, ...],
        named: Mapping[str, Any],
    ) -> Iterator[None]:
        self.where = where
        with unheard():
            args, kwargs = copied(inputs), copied(dict(named))
            for k, part in enumerate(inputs):
                self._number(part, f"input {k}")
            for name, part in named.items():
                self._number(part, name)
            given = [self.of(part) for part in tensors_in((inputs, dict(named)))]
            self.run = Invocation(model, args, kwargs, storage_of(model), given=given)
            self.run.autocast, self.run.history = autocast_now(), where.history
            self._known.note(
                (*model.parameters(), *model.buffers(), *tensors_in((inputs, dict(named))))
            )
        self.is_sure = all(map(_is_plain, (*inputs, *named.values())))
        with self._listening(), Leaving(self._leaves):
            yield

    @property
    def unknown(self) -> list[Kept]:
        """The tensors of unknown origin that numbers of the run were made of."""
        return [*self._unknown.values()]

    def finish(self, output: Any) -> None:
        if self.run is not None:
            self.run.finish(output, self.where)

    @contextmanager
    def following_on(
        self, where: ModuleStack, tensors: Sequence[Tensor], made: Sequence[Coordinates | None]
    ) -> Iterator[None]:
        """Follow what a module makes of these tensors, whose coordinates are known."""
        # No module is repeated meanwhile: what cannot be followed counts as mixing.
        self.where, self._repeats = where, False
        for tensor, coordinates in zip(tensors, made, strict=True):
            self._known.know(tensor, coordinates)
        with self._listening():
            yield

    @contextmanager
    def _listening(self) -> Iterator[None]:
        self._mode = Heard(self._after)
        try:
            with self._mode:
                yield
        finally:
            self._mode = None  # which knows this tracker

    def _stop(self) -> None:
        # Nothing listens to a branch of torch.cond: it runs while the whole of it is being heard.
        if self._mode is not None and _get_current_dispatch_mode() is self._mode:
            self._stopped = self._mode
            self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def _go_on(self) -> None:
        if self._stopped is not None:
            self._stopped.__enter__()  # type: ignore[no-untyped-call]
            self._stopped = None

    def _number(self, part: Any, name: str) -> None:
        for k, tensor in enumerate(tensors_in(part)):
            made = self.of(tensor)  # of an input that is a part of another one
            if made is None:
                made = numbered(tensor, f"{name}[{k}]" if k else name)
                self.projections.settle(made.planes)
            self._known.know(tensor, made)

    def of(self, tensor: Any) -> Coordinates | None:
        return self._known.of(tensor)

    def begin(self, frame: Any) -> None:
        if not self._paused:
            self._known.note(tensors_in((frame.args, frame.kwargs)), are_open=True)

    def pause(self) -> None:
        """Stop following: a module begins that is read as a whole."""
        if self._paused == 0:
            self._stop()
        self._paused += 1

    def resume(self, frame: Frame, output: Any) -> None:
        """Go on: that module has returned, and returned its tokens in the order it was given."""
        self._paused -= 1
        if self._paused == 0:
            self._go_on()
        self._returned(frame.module, (frame.args, frame.kwargs), output)

    @unheard()
    def _returned(self, module: nn.Module, given: Any, output: Any) -> None:
        """Note the tokens of what a module returned that is read as a whole."""
        every = [self.of(part) for part in tensors_in(given)]
        made = [one for one in every if one is not None]
        planes = (plane for one in made for axis, plane in one.planes.items() if is_place(axis))
        self.gives_many |= any(bool((small(plane) == MANY).any()) for plane in planes)
        like = made[0] if made else None
        if like is not None and len(like.shape) > 1:
            features = {axis for axis, plane in like.planes.items() if varies(plane, -1)}
            self.projections.are_places(like.planes.keys() - features)
            like = rules.product(
                like, None, torch.Size((*like.shape[:-1], 1)), self._are_features
            ).outputs[0]
        outputs = tensors_in(output)
        self._known.note(outputs)
        for k, part in enumerate(outputs):
            found, is_open = None, k > 0 and not isinstance(module, nn.RNNBase | nn.RNNCellBase)
            if like is not None and are_numbers(part):
                same = None if every[0] is None else rules.same_places(like, part.shape)
                found = same or rules.in_places(
                    rules.of_all(like, part.shape), range(-part.ndim, -1)
                )
                if k > 0 and isinstance(module, nn.RNNBase):
                    found = state_left(module, like, part.shape)
                elif k > 0 and isinstance(module, nn.MultiheadAttention):
                    named = given_to(module, *given)
                    query, key = self.of(named["query"]), self.of(named["key"])
                    is_open = query is None or key is None
                    if query is not None and key is not None:
                        found = scores_left(module, query, key, part.shape)
            self._known.know(part, found)
            # What else it returns no map explains, whatever tokens it seems to be of.
            self._known.leave_open(part, is_open=is_open or not self._known.has(part))

    @unheard()
    def attended(self, output: Tensor, time: int) -> None:
        """Note the places along ``time`` of what an attention makes for learnt queries, say."""
        made = self.of(output)
        found = None if made is None or made.columns else rules.in_places(made, [time])
        if found is not None and found is not made:
            self._known.know(output, found)

    def _are_features(self, axis: InputAxis) -> bool:
        return axis.source.kind == "input" and self.projections.are_channels(axis)

    def check_output(self, frame: Any, output: Any) -> None:
        """Note a module that returns numbers of which it is not known what they are made of."""
        # It may compute them past torch, or from its weights alone; a repeated pass will show it.
        given = tensors_in((frame.args, frame.kwargs))
        known = (axis for part in given for axis in self._known.axes_of(part))
        axes = dict.fromkeys(filter(is_place, known))
        where = self.where
        if not axes or self._paused:
            return
        # While all is known that there is, what is of no token is of weights and constants alone.
        lost = [
            part
            for part in tensors_in(output)
            if are_numbers(part)
            and not axes.keys() & self._axes_of(part)
            and not isinstance(part, nn.Parameter)
            and not (self.is_sure and not self._known.is_open(part) and not self._known.has(part))
        ]
        if not lost or where.has_read_in(frame):
            return
        try:
            invocation = begun(frame, where)
        except RuntimeError:  # inside of a vectorising transform nothing can be copied
            return
        if self._repeats and self._is_constant(invocation):
            return
        how = "what it computes could not be followed"
        meeting = Meeting(next(iter(axes)), words=how, is_known=False)
        name = type(frame.module).__name__
        self.mixings.append(TokenMixing(frame.module, name, meeting, where.tick(), invocation))
        for part in lost:
            whole = [c for one in given if (c := self.of(one)) is not None]
            alike = (m for c in whole if (m := rules.same_places(c, part.shape)))
            other = rules.of_all(whole[0], part.shape) if whole else None
            self._known.know(part, next(alike, other))

    def _is_constant(self, invocation: Any) -> bool:
        self._stop()
        self.is_asking = True
        try:
            with torch._C.DisableTorchFunction():
                # Both passes are repeated, since casts inside of them are not guarded here.
                before = repetition(invocation, (), None).outputs
                drawn = (cells_drawn(invocation, draw) for draw in (1, 2))  # all tokens together
                after = [repetition(invocation, cells, None).outputs for cells in drawn]
                pairs = (pair for again in after for pair in zip(before, again, strict=True))
                return all(
                    one is not None
                    and other is not None
                    and one.shape == other.shape
                    and torch.allclose(other, one, rtol=1e-5)
                    for one, other in pairs
                )
        except Exception:  # as inside of torch.vmap, where nothing is repeated
            return False
        finally:
            self.is_asking = False
            self._go_on()

    @unheard()
    def are_weights(self, left: Tensor, right: Tensor) -> bool:
        """Whether ``left`` weighs the tokens of ``right``, whatever made these weights."""
        # That is so where its rows are tokens, and its columns the tokens of the other factor: as a
        # product of queries and keys has them, whatever was done to it since.
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

    def _axes_of(self, tensor: Tensor) -> set[InputAxis]:
        """The axes that a tensor comes from, also those that its positions were made from."""
        axes = self._known.axes_of(tensor)
        return {each for axis in axes for each in (axis, *all_before(axis))}

    # --- the run

    def _after(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        if isinstance(out, Tensor) and rules.is_view(func) and out in self._known:
            if func is torch.ops.aten.expand.default:
                self._note("expand", rules.sent_to_all([self.of(args[0])], self.of(out)))
            return
        done = Done(func, args, kwargs, out)
        with self._known.during_a_step():
            try:
                self._follow(done)
                self._doubt(done)
            except Exception:  # a rule that does not fit must never end a run
                self.is_sure = False
                self._note(done.name, self._lost(done))
                self._known.note(done.outs)

    def _doubt(self, done: Done) -> None:
        """Note numbers that are made of what was not followed, and memory that holds such."""
        known, is_empty = self._known, done.func in MADE_EMPTY
        if rules.is_view(done.func):
            known.note(done.outs, are_open=True)  # of memory that was not known before
            return
        read = [] if is_empty else done.given[done.name in _OVERWRITES :]
        is_open = any(map(known.is_open, read))
        known.note(done.outs)
        if is_open and (not done.outs or any(map(are_numbers, done.outs))):
            self.is_sure = False
            with unheard():
                self._keep(filter(known.is_open, read))
        for out in done.outs:
            if are_numbers(out):
                is_lost = any(map(known.has, read)) and not known.has(out)
                is_lost &= not rules.is_made_anew(done.name)
                is_filled = done.name.removeprefix("new_").removesuffix("_like") in _FILLED
                known.leave_open(out, is_open=is_empty or is_lost, is_filled=is_filled)
            else:  # ids that were computed, or masks of them
                is_lost = any(map(known.has, read)) and not known.has(out)
                known.leave_open(out, is_open=is_empty or is_open or is_lost)

    def _keep(self, tensors: Iterable[Tensor]) -> None:
        for one in tensors:
            if (key := memory_key(one)) not in self._unknown:
                self._unknown[key] = Kept(one)

    def _lost(self, done: Done) -> list[Meeting]:
        """What a module is asked about where an operation could not be followed."""
        parts = [c for each in rules.tensors_of(done.args) if (c := self.of(each)) is not None]
        axes = dict.fromkeys(axis for c in parts for axis in c.positions)
        how = f"'{done.name}' could not be followed"
        return [Meeting(axis, words=how, is_known=False) for axis in axes][:1]

    def _follow(self, done: Done) -> None:
        name, func, outs, known = done.name, done.func, done.outs, self._known
        if not any(map(known.has, done.given)) or rules.is_view_in_place(func):
            return
        writes = bool(written_places(func))
        if leaving := size_chosen_by(func, done.given) if outs else done.given:
            self._leaves(*leaving)
        if not outs:
            return
        if not writes and all(one in known for one in outs):  # views of what is known
            return
        done.made_of = tuple(map(known.of, done.given))
        is_first = bool(done.given) and done.args[0] is done.given[0]
        done.first = done.made_of[0] if is_first else known.of(done.args[0])
        given = [one for one in done.given if known.decides(one)]
        chosen = [one for one in given if known.is_decided(one)]
        followed = self.rules.followed(done)
        for tensor, found in zip(outs, followed.outputs, strict=False):
            is_number = are_numbers(tensor)
            is_id = tensor.dtype is not torch.bool and name.strip("_") in _ARITHMETIC
            # A view that is not known yet is one of a tensor without memory of its own.
            is_moved = name in _WHOLE_NUMBERS or rules.is_view(func)
            exact = is_number or bool(given) or is_moved or is_id or self._is_one_hot(done)
            is_decided = bool(given) and (not is_number or len(chosen) == len(given))
            if writes or (found is not None and exact):
                known.know(tensor, found if exact else None, is_decided=is_decided)
        meetings, numbers = followed.meetings, [one for one in outs if are_numbers(one)]
        if chosen or not numbers:
            meetings = tuple(replace(one, chooses=True) for one in meetings)
        if numbers:
            is_new = name == "embedding" or rules.is_made_anew(name) or not numbers[0].numel()
            if not (meetings or is_new or any(one and one.planes for one in followed.outputs)):
                meetings = tuple(self._lost(done))  # a rule forgot them: it is asked of the module
            self._note(name, meetings)
        elif given or name.strip("_") in _ARITHMETIC:
            self._note(name, meetings)

    def _is_one_hot(self, done: Done) -> bool:
        """Whether ids are compared with all ids that there are."""
        if done.name != "eq":
            return False
        ids = [one for one in done.given if self._known.has(one)]
        return len(ids) < len(done.given) and ids[0].numel() < done.outs[0].numel()

    def _leaves(self, *tensors: Tensor) -> None:
        """Note numbers that a module takes out of torch, where nothing shows what it does next."""
        known = self._known
        left = [one for one in tensors if known.has(one) or known.is_open(one)]
        if left and not is_ours():
            self.is_sure = False
            with unheard():
                self._keep(left)
        found = [c for one in tensors if known.decides(one) and (c := known.of(one)) is not None]
        axes = dict.fromkeys(axis for c in found for axis in c.planes if is_place(axis))
        how = "what it does with numbers that it takes out of torch could not be followed"
        made = [Meeting(axis, words=how, is_known=False, chooses=True) for axis in axes]
        if not self._paused:
            self._note("item", made[:1])

    def _note(self, name: str, meetings: Sequence[Meeting]) -> None:
        where = self.where
        if not meetings:
            return
        frame = None if where.module is None else where.frame_of(where.module)
        if frame is None or (any(one.chooses for one in meetings) and is_ours()):
            self.is_sure = False
            return
        for meeting in meetings:
            around = self._around_steps(frame, meeting)
            try:
                invocation = begun(around, where)
            except RuntimeError:  # inside of a vectorising transform nothing can be copied
                invocation = None
            mixing = TokenMixing(around.module, name, meeting, where.tick(), invocation)
            self.mixings.append(mixing)
            if invocation is None:
                self._waiting.append((around, mixing))

    def _around_steps(self, frame: Frame, meeting: Meeting) -> Frame:
        """The frame in which tokens meet: that around a cell, which is called token by token."""
        outer = self.where.around(frame)
        if meeting.way not in _OF_CELLS or not any(one.is_repeated for one in outer):
            return frame

        def has_several(part: Tensor) -> bool:
            found = self.of(part)
            plane = None if found is None else found.planes.get(meeting.axis)
            return plane is not None and (small(plane).numel() > 1 or bool((plane == MANY).any()))

        for inner, caller in pairwise(outer):
            if any(map(has_several, tensors_in((inner.args, inner.kwargs)))):
                break
            frame = caller if inner.is_repeated else frame
        return frame

    def settle(self, frame: Any) -> None:
        """Copy what a module was called with, where that could not be done while it ran."""
        mine = [mixing for one, mixing in self._waiting if one is frame]
        self._waiting = [pair for pair in self._waiting if pair[0] is not frame]
        for mixing in mine:
            mixing.invocation = begun(frame, self.where)


_OF_CELLS = {Way.JOINS, Way.FIXED, Way.RUNS, Way.SPECTRUM, Way.RETURNS, Way.SPREADS, Way.OTHER}
_OVERWRITES = {"copy", "fill", "zero", "normal", "uniform", "bernoulli", "random"}
_FILLED = {"zeros", "ones", "full"}
_WHOLE_NUMBERS = rules.MOVES | {"clone", "copy", "scatter", "index_put", "masked_fill"}
_ARITHMETIC = {"add", "sub", "rsub", "mul", "div", "floor_divide", "remainder", "fmod"}
_ARITHMETIC |= {"neg", "abs"}
_ARITHMETIC |= {"clamp", "clamp_min", "clamp_max", "minimum", "maximum", "to_copy", "where"}
_ARITHMETIC |= {"bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not"}
_ARITHMETIC |= {"and", "or", "xor", "lshift", "rshift"}
"""Operations on whole numbers that make ids of ids, as where these are hashed."""
