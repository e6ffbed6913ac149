"""States that do not meet: every entry decays on its own."""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.kernels import applies
from dsf.transition.timeline import delay

# Numbers up to which it took less time to count in double precision everywhere than token by token.
FEW = 2**17


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
        decays, drives = (part.movedim(-3, 0).contiguous() for part in (decay, drive))
        if applies(decays, drives, work=drives.numel()):
            return _compiled(decays, drives, turned).movedim(0, -3)
        order = range(len(drives))
        turn = reversed(order) if turned else order
        walk = _at_once if drive.numel() <= FEW else _in_place
        return walk(decays, drives, [(t, t + 1 if turned else t) for t in turn]).movedim(0, -3)

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


def _compiled(decays: Tensor, drives: Tensor, turned: bool) -> Tensor:
    from dsf.kernels.walking import walk

    states = torch.empty_like(drives)
    parts = (part.resolve_conj().resolve_neg().flatten(1) for part in (decays, drives))
    walk(*parts, turned=turned, into=states.flatten(1))
    return states


def _at_once(decays: Tensor, drives: Tensor, order: list[tuple[int, int]]) -> Tensor:
    """Everything in double precision: one operation a token."""
    exact = torch.promote_types(drives.dtype, torch.float64)
    states = drives.to(exact, copy=True)
    each, factors = states.unbind(), decays.to(exact).unbind()
    for (before, _), (t, met) in pairwise(order):
        each[t].addcmul_(factors[met], each[before])
    return states.to(drives.dtype)


def _in_place(decays: Tensor, drives: Tensor, order: list[tuple[int, int]]) -> Tensor:
    """One token in double precision at a time: what is walked through stays in the cache."""
    states = torch.empty_like(drives)
    exact = torch.promote_types(drives.dtype, torch.float64)
    running, buffer = (torch.zeros_like(drives[0], dtype=exact) for _ in range(2))
    for place, (t, met) in enumerate(order):
        if place > 0:
            running.mul_(buffer.copy_(decays[met]))
        running.add_(buffer.copy_(drives[t]))
        states[t].copy_(running)
    return states
