"""Delays, reversals and slices of tensors along time, which keep broadcast (stride 0) axes."""

from collections.abc import Callable

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
    """The tokens of ``part`` in reverse order."""
    if part.stride(axis) == 0:
        return part
    return on_stored(part, lambda stored: stored.flip(axis), keep=axis)


def cut(part: Shaped[Tensor, "..."], start: int, stop: int, *, axis: int) -> Shaped[Tensor, "..."]:
    """The tokens ``start`` to ``stop - 1`` of ``part``, without a copy."""
    if start == 0 and stop == part.shape[axis]:
        return part
    return part.narrow(axis, start, stop - start)


def is_constant(part: Shaped[Tensor, "..."], *, axis: int) -> bool:
    """Whether ``part`` is the same for every token."""
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
