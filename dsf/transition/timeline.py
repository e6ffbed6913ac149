"""Moving tensors along their time axis."""

import torch
from torch import Tensor


def delay(part: Tensor, lag: int, *, axis: int, fill: float = 0.0) -> Tensor:
    """``part`` moved ``lag`` tokens later along ``axis``, with ``fill`` in front; same length."""
    steps = part.shape[axis]
    lag = min(lag, steps)
    front = torch.full_like(part.narrow(axis, 0, lag), fill)
    return torch.cat([front, part.narrow(axis, 0, steps - lag)], dim=axis)


def cut(part: Tensor, start: int, stop: int, *, axis: int) -> Tensor:
    """The tokens ``start`` to ``stop - 1`` of ``part``, without a copy."""
    return part.narrow(axis, start, stop - start)


def is_constant(part: Tensor, *, axis: int) -> bool:
    """Whether ``part`` is the same for every token."""
    if part.shape[axis] <= 1 or part.stride(axis) == 0:
        return True
    first = part.narrow(axis, 0, 1)
    return bool((part == first).all())
