"""Operations on the tensors of stored structures, whose annotations name their axes.

Delays, reversals and slices along time keep broadcast (stride 0) axes.
"""

from collections.abc import Callable
from dataclasses import Field, fields, is_dataclass, replace
from functools import cache, cached_property, reduce
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import torch
from jaxtyping import Shaped
from torch import Tensor


def delay(
    part: Shaped[Tensor, "..."], lag: int, *, axis: int, fill: float = 0.0
) -> Shaped[Tensor, "..."]:
    """``part`` shifted ``lag`` tokens later along ``axis``, with ``fill`` in front; same length."""
    steps = part.shape[axis]
    lag = min(lag, steps)

    def moved(stored: Tensor) -> Tensor:
        front = torch.full_like(stored.narrow(axis, 0, lag), fill)
        return torch.cat([front, stored.narrow(axis, 0, steps - lag)], dim=axis)

    return on_stored(part, moved, keep=axis)


def flip(part: Shaped[Tensor, "..."], *, axis: int) -> Shaped[Tensor, "..."]:
    if part.stride(axis) == 0:
        return part
    return on_stored(part, lambda stored: stored.flip(axis), keep=axis)


def cut(part: Shaped[Tensor, "..."], start: int, stop: int, *, axis: int) -> Shaped[Tensor, "..."]:
    """The tokens ``start`` to ``stop - 1`` of ``part``, without a copy."""
    if start == 0 and stop == part.shape[axis]:
        return part
    return part.narrow(axis, start, stop - start)


def is_constant(part: Shaped[Tensor, "..."], *, axis: int) -> bool:
    if part.shape[axis] <= 1 or part.stride(axis) == 0:
        return True
    first = part.narrow(axis, 0, 1)
    return bool((part == first).all())


def on_stored(
    part: Shaped[Tensor, "..."], act: Callable[[Tensor], Tensor], *, keep: int | None = None
) -> Shaped[Tensor, "..."]:
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


class Parts:
    """Tensors of one number type on one device, such as the fields of a dataclass."""

    @cached_property
    def dtype(self) -> torch.dtype:
        """The number type."""
        return dtype_of(self)

    @cached_property
    def device(self) -> torch.device:
        """The device that they are stored on."""
        return device_of(self)

    def to(
        self: Kept, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Kept:
        """The same in another number type or on another device; complex parts stay complex."""
        return on_parts(self, lambda part: cast(part, dtype=dtype, device=device))

    def picked(self: Kept, index: Any, batch: torch.Size) -> Kept:
        """The entries ``index`` of the batch axes; ``batch`` is the shape of what remains."""
        return picked(self, index, batch)


def on_parts(stored: Stored, act: Callable[[Tensor], Tensor]) -> Stored:
    """``stored`` with ``act`` applied to each of its tensors."""
    changed = {
        field.name: act(getattr(stored, field.name))
        for field in _fields(stored)
        if isinstance(getattr(stored, field.name), Tensor)
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
    names = {field.name: _axes(field.type).split() for field in fields(kind)}
    return {name: axes.index("time") - len(axes) for name, axes in names.items() if "time" in axes}


def dtype_of(stored: object) -> torch.dtype:
    """The number type to which all tensors promote; integers beside others are places."""
    parts = tensors_of(stored)
    numbers = [part for part in parts if part.is_floating_point() or part.is_complex()]
    return reduce(torch.promote_types, (part.dtype for part in numbers or parts))


def device_of(stored: object) -> torch.device:
    return tensors_of(stored)[0].device


def tensors_of(stored: object) -> list[Tensor]:
    parts = (getattr(stored, field.name) for field in _fields(stored))
    return [part for part in parts if isinstance(part, Tensor)]


def cast(
    part: Tensor, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Tensor:
    """A tensor moved to a device and converted to a number type; integers and booleans keep theirs.

    For a real ``dtype`` a complex tensor becomes complex of that precision: imaginary parts are
    never dropped.
    """
    if dtype is None or not (part.is_floating_point() or part.is_complex()):
        dtype = part.dtype
    elif part.is_complex():
        dtype = dtype.to_complex()
    if part.dtype == dtype and device is None:
        return part
    return on_stored(part, lambda stored: stored.to(dtype=dtype, device=device))


def picked(stored: Stored, index: Any, batch: torch.Size) -> Stored:
    """The entries ``index`` of the batch axes of every tensor that is annotated with ``*batch``.

    ``batch`` is the shape of the axes that remain. TypeError if the annotations do not say it.
    """
    changed: dict[str, Any] = {}
    for field in _fields(stored):
        part = getattr(stored, field.name)
        if isinstance(part, Tensor) and _axes(field.type).startswith("*batch"):
            changed[field.name] = part[index]
        elif isinstance(part, torch.Size):
            changed[field.name] = batch
    taken = replace(stored, **changed)  # type: ignore[type-var]
    if taken.shape[:-3] != batch:  # type: ignore[attr-defined]
        raise TypeError(
            f"select: {type(stored).__name__} does not say which of its axes are batch axes; "
            f"annotate its fields with '*batch ...', or give it a 'picked' of its own."
        )
    return taken


def _fields(stored: object) -> tuple[Field[Any], ...]:
    if not is_dataclass(stored):
        raise TypeError(
            f"{type(stored).__name__} is not a dataclass of tensors, so its parts are not known."
        )
    return fields(stored)


def _axes(annotation: Any) -> str:
    """The axis names of a tensor annotation, empty for anything else."""
    if get_origin(annotation) in (Union, UnionType):
        return next((axes for axes in map(_axes, get_args(annotation)) if axes), "")
    return getattr(annotation, "dim_str", "")
