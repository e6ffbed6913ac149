"""States that do not meet: every entry decays on its own."""

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.transition.timeline import delay


def entry_by_entry(
    decay: Shaped[Tensor, "..."], drive: Shaped[Tensor, "*batch time state channel"]
) -> Shaped[Tensor, "*batch time state channel"]:
    """Solve ``h_t = decay_t h_{t-1} + drive_t``, one token after the other.

    ``decay`` is spread over the axes of ``drive``. Gradients walk from the last token to the first;
    derivatives of every kind and order are this walk again.
    """
    dtype = torch.promote_types(decay.dtype, drive.dtype)
    decay, drive = torch.broadcast_tensors(decay.to(dtype), drive.to(dtype))
    return _walk(decay, drive, False)


def _walk(decay: Tensor, drive: Tensor, turned: bool) -> Tensor:
    return _Walk.apply(decay, drive, turned)  # type: ignore[no-untyped-call]


class _Walk(torch.autograd.Function):
    """``h_t = decay_t h_{t-1} + drive_t``, or turned: ``h_t = decay_{t+1} h_{t+1} + drive_t``.

    Either is the adjoint of the other with conjugate decays.
    """

    @staticmethod
    def forward(decay: Tensor, drive: Tensor, turned: bool) -> Tensor:
        """Time comes first in memory, so that every token is one run of numbers.

        The running state is kept in double precision, which costs nothing here and saves the digits
        that a slow decay loses over many tokens.
        """
        decays, drives = decay.movedim(-3, 0), drive.movedim(-3, 0)
        states = torch.empty_like(drives, memory_format=torch.contiguous_format)
        exact = torch.promote_types(drive.dtype, torch.float64)
        running, buffer = (torch.zeros_like(states[0], dtype=exact) for _ in range(2))
        order = range(len(states))
        for t in reversed(order) if turned else order:
            met = t + 1 if turned else t
            if 0 < met < len(states):
                running.mul_(buffer.copy_(decays[met]))
            running.add_(buffer.copy_(drives[t]))
            states[t].copy_(running)
        return states.movedim(0, -3)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, bool], output: Tensor) -> None:
        decay, _, ctx.turned = inputs
        ctx.save_for_backward(decay, output)
        ctx.save_for_forward(decay, output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, None]:
        decay, states = ctx.saved_tensors
        pulled = _walk(decay.conj(), grads[0], not ctx.turned)
        if not ctx.needs_input_grad[0]:
            return None, pulled, None
        by_time = pulled.movedim(-3, 0), states.conj().movedim(-3, 0)
        earlier, later = by_time if ctx.turned else by_time[::-1]
        met = torch.cat([torch.zeros_like(later[:1]), earlier[:-1] * later[1:]])
        return met.movedim(0, -3), pulled, None

    @staticmethod
    def jvp(ctx: Any, by_decay: Tensor, by_drive: Tensor, _: None) -> Tensor:
        decay, states = ctx.saved_tensors
        if ctx.turned:
            pushed = delay((by_decay * states).flip(-3), 1, axis=-3).flip(-3)
        else:
            pushed = by_decay * delay(states, 1, axis=-3)
        return _walk(decay, pushed + by_drive, ctx.turned)

    @staticmethod
    def vmap(
        info: Any, axes: tuple[int | None, ...], decay: Tensor, drive: Tensor, turned: bool
    ) -> tuple[Tensor, int]:
        decay, drive = (
            part.expand(info.batch_size, *part.shape) if axis is None else part.movedim(axis, 0)
            for part, axis in zip((decay, drive), axes, strict=False)
        )
        return _walk(decay, drive, turned), 0
