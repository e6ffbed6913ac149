"""Running maxima that keep exponential weights in range."""

import torch
from jaxtyping import Float
from torch import Tensor


def running_maximum(
    log_decay: Float[Tensor, "*batch time width"],
    logit: Float[Tensor, "*batch time width"],
    *,
    start: float,
) -> Float[Tensor, "*batch time width"]:
    """``m_t = max(m_{t-1} + log_decay_t, logit_t)`` from ``m_0 = start``.

    One token after the other: from cumulative sums it would lose digits with every token.
    """
    largest, found = torch.full_like(logit[..., 0, :], start), []
    for fade, new in zip(log_decay.unbind(-2), logit.unbind(-2), strict=True):
        largest = torch.maximum(largest + fade, new)
        found.append(largest)
    return torch.stack(found, dim=-2)


def before(part: Tensor, *, axis: int, start: float) -> Tensor:
    """What ``part`` was one token earlier along ``axis``, and ``start`` before the first."""
    first = torch.full_like(part.narrow(axis, 0, 1), start)
    return torch.cat([first, part.narrow(axis, 0, part.shape[axis] - 1)], dim=axis)
