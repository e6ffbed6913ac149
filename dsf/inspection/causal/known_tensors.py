"""``KnownTensors``: from which tokens every tensor of a run is made, views and writes included."""

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dsf.inspection.causal import operations as ops
from dsf.inspection.causal.coordinates import NONE, Coordinates
from dsf.inspection.causal.remembered import Remembered


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
        is_looking: whether coordinates are moved right now: what that computes is no step of a run.
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
