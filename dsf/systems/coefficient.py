"""Tensors of stored structures, and lazy matrices evaluated for a window of tokens at a time.

Annotations of fields name their axes. Delays, reversals and slices along time keep broadcast
(stride 0) axes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from functools import cache, cached_property, reduce
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.utils._pytree import tree_map_only


def delay(part: Tensor, lag: int, *, axis: int, fill: float = 0.0) -> Tensor:
    """``part`` shifted ``lag`` tokens later along ``axis``, with ``fill`` in front; same length."""
    steps = part.shape[axis]
    lag = min(lag, steps)

    def moved(stored: Tensor) -> Tensor:
        front = torch.full_like(stored.narrow(axis, 0, lag), fill)
        return torch.cat([front, stored.narrow(axis, 0, steps - lag)], dim=axis)

    return on_stored(part, moved, keep=axis)


def flip(part: Tensor, *, axis: int) -> Tensor:
    if part.stride(axis) == 0:
        return part
    return on_stored(part, lambda stored: stored.flip(axis), keep=axis)


def cut(part: Tensor, start: int, stop: int, *, axis: int) -> Tensor:
    """The tokens ``start`` to ``stop - 1`` of ``part``, without a copy."""
    if start == 0 and stop == part.shape[axis]:
        return part
    return part.narrow(axis, start, stop - start)


def is_constant(part: Tensor, *, axis: int) -> bool:
    if part.shape[axis] <= 1 or part.stride(axis) == 0:
        return True
    first = part.narrow(axis, 0, 1)
    return bool((part == first).all())


def on_stored(part: Tensor, act: Callable[[Tensor], Tensor], *, keep: int | None = None) -> Tensor:
    """``act`` applied to the numbers as stored, and the result broadcast over axes of stride 0.

    ``act`` must treat all entries along an axis alike, except along the axis ``keep``.
    """
    excepted = None if keep is None else keep % part.ndim
    stored = part
    for axis, size in enumerate(part.shape):
        if size > 1 and part.stride(axis) == 0 and axis != excepted:
            stored = stored.narrow(axis, 0, 1)
    return act(stored).expand(part.shape)


Stored = TypeVar("Stored")
Kept = TypeVar("Kept", bound="Parts")
Moved = TypeVar("Moved", bound="Tensor | Parts")


class Parts:
    """A dataclass of tensors, or of such dataclasses, of one number type on one device."""

    @cached_property
    def dtype(self) -> torch.dtype:
        """The number type to which all tensors promote; integers beside others are places."""
        kinds = [part.dtype for part in stored_in(self)]
        numbers = [kind for kind in kinds if kind.is_floating_point or kind.is_complex]
        return reduce(torch.promote_types, numbers or kinds)

    @cached_property
    def device(self) -> torch.device:
        """The device that they are stored on."""
        return stored_in(self)[0].device

    def to(
        self: Kept, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Kept:
        """The same in another number type or on another device; complex parts stay complex."""
        return on_parts(self, lambda part: cast(part, dtype=dtype, device=device))

    def picked(self: Kept, index: Any, batch: torch.Size) -> Kept:
        """The entries ``index`` of the batch axes; ``batch`` is the shape of what remains.

        Of every tensor that is annotated with ``*batch``; TypeError if the annotations do not say.
        """
        changed: dict[str, Any] = {}
        for field in _fields(self):
            part = getattr(self, field.name)
            if isinstance(part, Tensor) and (axes_of(field.type) or "").startswith("*batch"):
                changed[field.name] = part[index]
            elif isinstance(part, Parts):
                changed[field.name] = part.picked(index, batch)
            elif isinstance(part, torch.Size):
                changed[field.name] = batch
        taken = replace(self, **changed)  # type: ignore[type-var]
        if taken.shape[:-3] != batch:  # type: ignore[attr-defined]
            raise TypeError(
                f"select: {type(self).__name__} does not say which of its axes are batch axes; "
                f"annotate its fields with '*batch ...', or give it a 'picked' of its own."
            )
        return taken


def on_parts(stored: Stored, act: Callable[[Any], Any]) -> Stored:
    """``stored`` with ``act`` applied to each of its tensors, or to what holds such."""
    changed = {
        field.name: act(getattr(stored, field.name))
        for field in _fields(stored)
        if isinstance(getattr(stored, field.name), Tensor | Parts)
    }
    return replace(stored, **changed)  # type: ignore[type-var]


def along_time(stored: Stored, act: Callable[[Tensor, int], Tensor]) -> Stored:
    """``stored`` with ``act`` applied to each tensor with an axis of time, and to that axis."""
    kind: type = type(stored)
    axes = time_axes(kind).items()
    return replace(stored, **{name: act(getattr(stored, name), axis) for name, axis in axes})  # type: ignore[type-var]


@cache
def time_axes(kind: type) -> dict[str, int]:
    """Fields of a class with an axis of time, and that axis, counted from the last."""
    names = {field.name: (axes_of(field.type) or "").split() for field in fields(kind)}
    return {name: axes.index("time") - len(axes) for name, axes in names.items() if "time" in axes}


def stored_in(stored: object) -> list[Any]:
    parts = (getattr(stored, field.name) for field in _fields(stored))
    return [part for part in parts if isinstance(part, Tensor | Parts)]


def cast(
    part: Moved, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Moved:
    """A tensor moved to a device and converted to a number type; integers and booleans keep theirs.

    For a real ``dtype`` a complex tensor becomes complex of that precision: imaginary parts are
    never dropped. Lazy values are computed in the new type, not rounded to it afterwards.
    """
    if isinstance(part, Parts):
        return part.to(dtype=dtype, device=device)
    if dtype is None or not (part.is_floating_point() or part.is_complex()):
        dtype = part.dtype
    elif part.is_complex():
        dtype = dtype.to_complex()
    if part.dtype == dtype and device is None:
        return part
    return on_stored(part, lambda stored: stored.to(dtype=dtype, device=device))  # type: ignore[return-value]


def _fields(stored: object) -> tuple[Field[Any], ...]:
    if not is_dataclass(stored):
        raise TypeError(
            f"{type(stored).__name__} is not a dataclass of tensors, so its parts are not known."
        )
    return fields(stored)


def axes_of(annotation: Any) -> str | None:
    """The axis names of a tensor annotation, None for anything else."""
    if get_origin(annotation) in (Union, UnionType):
        found = map(axes_of, get_args(annotation))
        return next((axes for axes in found if axes is not None), None)
    return getattr(annotation, "dim_str", None)


class Coefficient(Parts, ABC):
    """Matrices B_t, C_t or D_t of every token, computed when they are needed.

    Behaves like a tensor of shape ``(*batch, time, rows, columns)``: indexing, ``@`` and torch
    functions compute all of it, ``window`` computes only the requested tokens.
    """

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """The shape it would have if written out."""

    @abstractmethod
    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time rows columns"]:
        """The matrices of the tokens ``start`` to ``stop - 1``, written out."""

    def flipped(self) -> "Coefficient":
        """The tokens in reverse order."""
        return along_time(self, lambda part, axis: flip(part, axis=axis))

    def cut(self, start: int, stop: int) -> "Matrices":
        """The tokens ``start`` to ``stop - 1``, kept lazy where the class supports it."""
        return self.window(start, stop)

    def dense(self) -> Shaped[Tensor, "*batch time rows columns"]:
        """All matrices written out."""
        return self.window(0, self.shape[-3])

    def __getitem__(self, index: Any) -> Tensor:
        return self.dense()[index]

    def __matmul__(self, right: Tensor) -> Tensor:
        return self.dense() @ right

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        args, kwargs = tree_map_only(Coefficient, Coefficient.dense, (args, kwargs or {}))
        return func(*args, **kwargs)


Matrices = Tensor | Coefficient


def cut_of(part: Matrices, start: int, stop: int, dtype: torch.dtype | None = None) -> Matrices:
    """The matrices of the tokens ``start`` to ``stop - 1``, lazy where that is supported."""
    if isinstance(part, Coefficient):
        return cast(part.cut(start, stop), dtype=dtype)
    return cast(cut(part, start, stop, axis=-3), dtype=dtype)


def flipped(part: Matrices) -> Matrices:
    return part.flipped() if isinstance(part, Coefficient) else flip(part, axis=-3)


def dense_of(part: Matrices) -> Shaped[Tensor, "*batch time rows columns"]:
    return part.dense() if isinstance(part, Coefficient) else part


@dataclass(frozen=True)
class SampledWrite(Coefficient):
    """B_t = step_t write_t; channels that share ``write`` store it once (stride 0)."""

    step: Shaped[Tensor, "*batch time"]
    write: Shaped[Tensor, "*batch time state"]

    @property
    def shape(self) -> torch.Size:
        return torch.Size([*self.write.shape, 1])

    def __matmul__(self, right: Tensor) -> Tensor:
        """Scale the signal by the step: it has fewer numbers than B."""
        return self.write.unsqueeze(-1) * (self.step[..., None, None] * right)

    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time state 1"]:
        step = cut(self.step, start, stop, axis=-1)
        return (step.unsqueeze(-1) * cut(self.write, start, stop, axis=-2)).unsqueeze(-1)

    def cut(self, start: int, stop: int) -> "SampledWrite":
        return along_time(self, lambda part, axis: cut(part, start, stop, axis=axis))


@dataclass(frozen=True)
class TokenSlots(Coefficient):
    """B_t = e_t: token ``t`` is stored in state ``t``, as in an attention cache."""

    tokens: Shaped[Tensor, " time"]
    slots: int
    leading: torch.Size
    like: Shaped[Tensor, ""]

    @classmethod
    def cache(cls, like: Tensor, *, batch: torch.Size, steps: int) -> "TokenSlots":
        """One slot for every token, of the dtype and device of ``like``."""
        return cls(torch.arange(steps, device=like.device), steps, batch, like.new_zeros(()))

    @property
    def shape(self) -> torch.Size:
        return torch.Size([*self.leading, self.tokens.shape[0], self.slots, 1])

    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time state 1"]:
        tokens = cut(self.tokens, start, stop, axis=-1)
        slots = torch.arange(self.slots, device=self.device)
        one_hot = (tokens[:, None] == slots).to(self.dtype).unsqueeze(-1)
        return one_hot.expand(*self.leading, stop - start, self.slots, 1)

    def cut(self, start: int, stop: int) -> "TokenSlots":
        return along_time(self, lambda part, axis: cut(part, start, stop, axis=axis))
