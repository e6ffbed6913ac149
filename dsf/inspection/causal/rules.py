"""``KnownTensors``: from which tokens every tensor of a run is made, views and writes included.

``Rules``: what every operation of torch does to the tokens that its tensors are made of.
"""

import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dsf.inspection.causal import operations as ops
from dsf.inspection.causal.coordinates import (
    MANY,
    NONE,
    Coordinates,
    InputAxis,
    Remembered,
    reduced,
    small,
    varies,
)
from dsf.inspection.causal.operations import Done, Followed, Meeting, Way, is_place


@dataclass(frozen=True, eq=False)
class _Move:
    """How the elements of a view lie in what it is a view of.

    Attributes:
        kind: the same for all moves that do the same.
    """

    plane: Callable[[Tensor], Any]
    shape: torch.Size
    kind: Hashable


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
    moves: tuple[_Move, ...] = ()
    known: tuple[Coordinates | None, Coordinates | None] = (None, None)


class KnownTensors:
    """The coordinates of the tensors of a run, while they are alive.

    Views share the coordinates of the memory that they look at, so a write into one is seen in all.

    Attributes:
        is_looking: whether coordinates are moved right now, which is not a step of a run.
    """

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}
        self._moved = Remembered()
        self.is_looking = False

    def __contains__(self, tensor: Tensor) -> bool:
        return id(tensor) in self._entries

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
        was_looking, self.is_looking = self.is_looking, True
        try:
            for move in entry.moves:
                found = self._after(found, move)
        finally:
            self.is_looking = was_looking
        entry.known = (held, found)
        return found

    def _after(self, given: Coordinates, move: _Move) -> Coordinates:
        """The coordinates of a view; the same object for the same view of the same coordinates."""
        key = given, move.kind
        found: Coordinates | None = self._moved.of(key)
        if found is None:
            found = given.moved(move.plane, move.shape)
            self._moved.add(key, found, (given, found))
        return found

    def know(
        self, tensor: Tensor, coordinates: Coordinates | None, *, is_decided: bool = False
    ) -> None:
        """Take a tensor for one that owns its memory, made of the tokens of ``coordinates``."""
        self._remember(tensor, _Entry(None, _Holder(tensor.shape, coordinates, is_decided)))

    def decides(self, tensor: Tensor) -> bool:
        """Whether a tensor holds numbers of tokens, or what was decided by such numbers.

        Ids and masks that the model is given do not: they say which tokens there are.
        """
        if tensor.is_floating_point() or tensor.is_complex():
            return self.of(tensor) is not None
        return self.is_decided(tensor)

    def is_decided(self, tensor: Tensor) -> bool:
        """Whether it holds truth values or whole numbers that numbers of tokens decided."""
        entry = self._entries.get(id(tensor))
        return entry is not None and entry.holder.is_decided

    def decide(self, tensor: Tensor) -> None:
        """Numbers of tokens have decided what is written into a tensor."""
        self._entries[id(tensor)].holder.is_decided = True

    def assign(self, tensor: Tensor, instead: Tensor) -> None:
        """A tensor holds from now on what another one does."""
        entry = self._entries.get(id(instead)) if self.of(instead) is not None else None
        if entry is None:
            self.know(tensor, None)
        else:
            self._remember(tensor, _Entry(None, entry.holder, entry.moves))

    def _remember(self, tensor: Tensor, entry: _Entry) -> None:
        key = id(tensor)
        entry.tensor = weakref.ref(tensor, partial(_forget, weakref.ref(self), key))
        self._entries[key] = entry

    def view_of_memory(self, func: Any, args: tuple[Any, ...], out: Any) -> None:
        """A view of memory that is written into later, such as a row of an output buffer."""
        if not (ops.is_view(func) and args and isinstance(args[0], Tensor)):
            return
        base = args[0]
        if isinstance(base, nn.Parameter):
            return
        self._remember(base, _Entry(None, _Holder(base.shape, None)))
        self.view(func, ops.name_of(func), args, {}, out)

    def view(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        """Let the views that an operation made look at the memory of its first argument."""
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
            self._remember(part, _Entry(None, entry.holder, (*entry.moves, move)))

    def _reinterpreted(self, given: Tensor, part: Tensor, name: str) -> None:
        found = self.of(given)
        if found is None:
            return
        if name == "view_as_real":
            self.know(part, found.moved(lambda p: p.unsqueeze(-1).expand(part.shape), part.shape))
        elif name == "view_as_complex":
            self.know(part, found.moved(lambda p: p[..., 0], part.shape))
        elif (like := ops.same_places(found, part.shape)) is not None:
            self.know(part, like, is_decided=not (part.is_floating_point() or part.is_complex()))

    def write(self, tensor: Tensor, found: Coordinates | None) -> None:
        """What is written into a tensor, and so into the memory that it may be a view of."""
        entry = self._entries.get(id(tensor))
        if entry is None:
            self.know(tensor, found)
            return
        if not entry.moves:
            entry.holder.coordinates = found
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
                part = move.plane(part)
            new = found.planes.get(axis) if found else None
            part.copy_(torch.full((), NONE) if new is None else new)
            planes[axis] = full
        holder.coordinates = Coordinates(holder.shape, planes, base.columns)


def _move(
    func: Any,
    name: str,
    rest: tuple[Any, ...],
    kwargs: dict[str, Any],
    shape: torch.Size,
    which: int | None,
) -> _Move:
    others = (*rest, *kwargs.items())
    kind: Hashable = (func, shape, which, *map(ops.plain, others))
    if ops.tensors_in(others):  # where these lie may depend on numbers
        kind = object()

    def move(plane: Tensor) -> Any:
        if name in ops.RESHAPES:
            return plane.reshape(shape)
        if name in ops.KEEPS:
            return plane
        made = func(plane.contiguous() if name == "as_strided" else plane, *rest, **kwargs)
        return made if which is None else made[which]

    return _Move(move, shape, kind)


def _forget(known: Callable[[], KnownTensors | None], key: int, _: Any) -> None:
    """A tensor of the run is gone; what is known is not kept alive by what waits for that."""
    if (alive := known()) is not None:
        alive._entries.pop(key, None)


class Rules:
    """The rule of each operation, over what is known of the tensors of a run.

    Attributes:
        unknown: names of operations without a rule, which were taken for ones that mix.
    """

    def __init__(self, known: KnownTensors, projections: ops.Projections) -> None:
        self._known, self._projections = known, projections
        self._before = Remembered()
        self.unknown: set[str] = set()

    def followed(self, done: Done) -> Followed:
        """What the outputs of an operation are made of, and the tokens that meet in it.

        The same as before where the same operation was done on the same coordinates: those that
        are equal are one object, so that every layer after the first finds what that one did.
        """
        if not done.has_numbers_alone:  # what an index names lies in its numbers
            return self._by_rule(done)
        given, asked = done.made_of, self._projections.asked
        key = done.kind, given, self._projections.known
        before: tuple[Followed, list[InputAxis]] | None = self._before.of(key)
        if before is not None:
            for axis in before[1]:
                self._projections.are_channels(axis)
            return before[0]
        start = len(asked)
        made = self._by_rule(done)
        found = Followed(tuple(_known_among(given, one) for one in made.outputs), made.meetings)
        axes = {axis for one in given if one is not None for axis in one.planes}
        if all(axes >= one.planes.keys() for one in found.outputs if one is not None):
            self._before.add(key, (found, asked[start:]), (*given, *found.outputs))
        return found

    def _by_rule(self, done: Done) -> Followed:
        rule = _RULES.get(done.plain)
        if rule is not None:
            return rule(self, done)
        if is_made_anew(done.plain):
            return Followed((None,))
        if ops.is_pointwise(done.func):
            return ops.pointwise(
                self._known.of, done.name, done.args, done.kwargs, tuple(done.outs)
            )
        if "scaled_dot_product" in done.plain:
            return self._attention(done)
        return self._unknown(done)

    def _copied(self, done: Done) -> Followed:
        source = self._known.of(done.args[1])
        return Followed((None if source is None else source.expanded(done.outs[0].shape),))

    def _moved(self, done: Done) -> Followed:
        found = ops.moved(self._known.of, done.plain, done.func, done.args, done.kwargs, done.out)
        if isinstance(found, list):
            return Followed(tuple(found))
        return Followed((found or self._of_index(done),), self._chosen(done, found))

    def _deciding(self, done: Done) -> Iterator[tuple[InputAxis, Tensor]]:
        """The planes of the tokens that decide which elements an operation takes or writes into."""
        for places in ops.chosen_places(done.plain, done.args):
            by = self._known.of(places.tensor) if self._known.decides(places.tensor) else None
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
                meetings[axis] = Meeting(axis, words="tokens choose one another", chooses=True)
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
        ids, shape = self._known.of(done.args[1]), done.outs[0].shape
        if ids is None:
            return Followed((None,))
        for axis in ids.planes:
            axis.source.is_embedded = True
        return Followed((ids.moved(lambda p: p.unsqueeze(-1).expand(shape), shape),))

    def _attention(self, done: Done) -> Followed:
        first, shape = done.first, done.outs[0].shape
        if first is None:
            return self._read_by_weights(done)
        made = first.moved(lambda p: p[..., :1].expand(shape), shape)
        inner = [Meeting(a, Way.ATTENTION) for a in first.planes if varies(first.planes[a], -2)]
        return Followed((made,) + (None,) * (len(done.outs) - 1), tuple(inner))

    def _read_by_weights(self, done: Done) -> Followed:
        """What queries that come from no input read: each of them many tokens."""
        value, out = self._known.of(done.args[2]), done.outs[0]
        if value is None:
            return self._unknown(done)
        planes, meetings = {}, []
        for axis, plane in value.planes.items():
            line, several = reduced(plane, [-2, -1])
            planes[axis] = line[..., :1, :1].expand(out.shape)
            if several and not self._projections.are_channels(axis):
                meetings.append(Meeting(axis, Way.ATTENTION))
        nothing = (None,) * (len(done.outs) - 1)
        return Followed((Coordinates(out.shape, planes), *nothing), tuple(meetings))

    def _norm(self, done: Done) -> Followed:
        found = self._normalised(done.first, range(-len(done.args[1]), 0), done.outs)
        if not found.meetings or len(done.args[1]) != 1 or done.first is None:
            return found
        groups = ops.groups_of(done.first, done.first.shape)
        inside = groups.axes if groups is not None else ()
        meetings = (
            Meeting(one.axis, Way.GROUPS) if one.axis in inside else one for one in found.meetings
        )
        return Followed(found.outputs, tuple(meetings))

    def _batch_norm(self, done: Done) -> Followed:
        """With stored statistics every element by itself; else all that share a channel."""
        if not next((one for one in done.args if isinstance(one, bool)), True):
            return self._kept(done)
        others = [dim for dim in range(done.outs[0].ndim) if dim != 1]
        return self._normalised(done.first, others, done.outs)

    def _group_norm(self, done: Done) -> Followed:
        return self._normalised(done.first, range(1, done.outs[0].ndim), done.outs)

    def _softmax(self, done: Done) -> Followed:
        return self._along(done.first, [done.args[1]], done.outs, Way.SOFTMAX)

    def _running_total(self, done: Done) -> Followed:
        words = f"'{done.plain}' over tokens"
        return self._along(done.first, [done.args[1]], done.outs, words=words)

    def _sorted(self, done: Done) -> Followed:
        if done.first is None or len(done.outs) != 2:
            return self._unknown(done)
        values, places = done.outs
        dim = _given(done.args, done.kwargs, 2 if done.plain == "topk" else 1, "dim", -1)
        made = done.first.moved(lambda p: p.gather(dim, places), values.shape)
        order = ops.summed(done.first, [dim], True, places.narrow(dim, 0, 1).shape)
        meetings = [
            Meeting(axis, words=f"'{done.plain}' orders tokens", chooses=True)
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
            return ops.joined(self._known.of, args[0], dim, out)
        dim = dim % out.ndim
        parts = [part.unsqueeze(dim) for part in args[0]]
        lifted = {
            id(new): found.moved(lambda p: p.unsqueeze(dim), new.shape)
            for new, old in zip(parts, args[0], strict=True)
            if (found := self._known.of(old)) is not None
        }
        return ops.joined(lambda part: lifted.get(id(part)), parts, dim, out)

    def _product(self, done: Done) -> Followed:
        name, args, out = done.plain, done.args, done.outs[0]
        find, are_channels = self._known.of, self._projections.are_channels
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
        found, out = self._known.of(given), done.outs[0]
        if found is None or given.ndim != out.ndim or given.ndim < 3:
            return self._unknown(done)
        window = ops.SlidingWindow.of(
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
        window = ops.SlidingWindow.of(name, kernel, (stride, padding, dilation), depthwise=True)
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
        meetings = tuple(Meeting(axis, Way.REMAKES, how) for axis in changed)
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
                self._projections.are_channels(axis, in_norm=True)
            ):
                meetings.append(Meeting(axis, words="a norm over tokens"))
            elif is_place(axis) and any(ops.has_many_and_one(plane, dim) for dim in dims):
                meetings.append(Meeting(axis, words=ops.MANY_AND_ONE))
        return Followed((given, *nothing), tuple(meetings))

    def _along(
        self,
        given: Coordinates | None,
        dims: Sequence[int],
        outs: list[Tensor],
        way: Way = Way.OTHER,
        words: str = "",
    ) -> Followed:
        """An operation that keeps the shape and lets elements along ``dims`` meet."""
        if given is None:
            return Followed((None,) * len(outs))
        meetings = [
            Meeting(axis, way, words)
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
                meetings.append(Meeting(axis, words="a Fourier transform over tokens"))
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
        into = self._known.of(args[0])
        place = 2 if name in ("index_put", "_index_put_impl", "_unsafe_index_put") else 3
        source = args[place] if len(args) > place else kwargs.get("source", kwargs.get("src"))
        found = self._known.of(source)
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
                        meetings.append(
                            Meeting(axis, words=f"'{name}' sums what lands in one place")
                        )
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
        parts = [c for each in ops.tensors_in(args) if (c := self._known.of(each)) is not None]
        same = next((c for c in parts if c.shape == outs[0].shape), None)
        meetings = [
            Meeting(axis, words=f"'{name}', which is not known", is_known=False)
            for part in parts
            for axis in part.planes
            if part.planes[axis].max() > part.planes[axis].min()
        ]
        return Followed((same,) + (None,) * (len(outs) - 1), tuple(meetings))


_MADE_ANEW = {"fill", "zero", "bernoulli", "normal", "uniform", "random"}
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
class _NamedPlaces:
    """The places that an index names: how they are written into, and what lies in them.

    Attributes:
        fitted: the part of a tensor that the index names places for.
    """

    write: Callable[[Tensor, Tensor], Any]
    read: Callable[[Tensor], Tensor]
    fitted: Callable[[Tensor], Tensor] = Tensor.contiguous


def _place_named(name: str, place: int, args: tuple[Any, ...]) -> _NamedPlaces:
    if place == 2:
        index = tuple(args[1])
        return _NamedPlaces(lambda full, new: full.index_put_(index, new), lambda full: full[index])
    dim, index = args[1], args[2]
    if name.startswith("index"):
        return _NamedPlaces(
            lambda full, new: full.index_copy_(dim, index, new),
            lambda full: full.index_select(dim, index),
        )
    part = tuple(slice(size) for size in index.shape)
    return _NamedPlaces(
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


def is_made_anew(name: str) -> bool:
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


def _known_among(
    given: Sequence[Coordinates | None], made: Coordinates | None
) -> Coordinates | None:
    """The coordinates in ``given`` that equal ``made``, or else these."""
    if made is None:
        return None
    return next((one for one in given if one is not None and one.equals(made)), made)


def _first_of(plane: Tensor, dims: Sequence[int]) -> Tensor:
    for dim in dims:
        plane = plane.narrow(dim, 0, 1)
    return plane


def _given(
    args: tuple[Any, ...], kwargs: dict[str, Any], place: int, name: str, default: Any
) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


_RULES: dict[str, Callable[[Rules, Done], Followed]] = {
    **dict.fromkeys((*ops.RESHAPES, *ops.MOVES), Rules._moved),
    **dict.fromkeys(ops.KEEPS, Rules._kept),
    **dict.fromkeys(_PRODUCTS, Rules._product),
    **dict.fromkeys(_SCATTERS, Rules._scattered),
    **dict.fromkeys(_REDUCTIONS, Rules._reduced),
    **dict.fromkeys(_POOLS, Rules._pooled),
    **dict.fromkeys(_RESIZES, Rules._resized),
    **dict.fromkeys(_TRANSFORMS, Rules._transformed),
    **dict.fromkeys(_RUNNING, Rules._running_total),
    **dict.fromkeys(_SOFTMAXES, Rules._softmax),
    **dict.fromkeys(("native_layer_norm", "_fused_rms_norm", "rms_norm"), Rules._norm),
    "copy": Rules._copied,
    "cat": Rules._joined,
    "stack": Rules._joined,
    "constant_pad_nd": Rules._padded,
    "as_strided": Rules._strided,
    "embedding": Rules._embedded,
    "convolution": Rules._convolved,
    "native_group_norm": Rules._group_norm,
    **dict.fromkeys(_BATCH_NORMS, Rules._batch_norm),
    "sort": Rules._sorted,
    "topk": Rules._sorted,
}
"""How each operation is followed: functions, since bound methods would keep a run alive."""
