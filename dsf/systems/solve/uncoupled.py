"""The recurrence of uncoupled states, where each entry has its own decay, with its derivatives."""

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.runtime.number_types import exact_dtype
from dsf.systems.kernels import applies
from dsf.systems.solve.initial_state import states_before

# Drives of at most so many numbers are converted to double precision as a whole; for larger ones
# converting one token at a time took less time.
FEW = 2**17

Solved = tuple[Tensor, Tensor]


def uncoupled_states(
    decay: Shaped[Tensor, "..."],
    drive: Shaped[Tensor, "*batch time state channel"],
    entering: Shaped[Tensor, "*batch state channel"] | None = None,
) -> tuple[
    Shaped[Tensor, "*batch time state channel"],
    Shaped[Tensor, "*batch state channel"],
]:
    """Solve ``h_t = decay_t h_{t-1} + drive_t``, one token after the other.

    ``decay`` is broadcast to the axes of ``drive`` and may have a higher precision. The gradient is
    this recurrence run from the last token to the first; derivatives of every order, forward and
    reverse, are again such recurrences.

    Returns:
        All states in the precision of ``drive``, and the last one in double precision where the
        device has it.
    """
    if decay.is_complex() or drive.is_complex():
        decay, drive = (part.to(part.dtype.to_complex()) for part in (decay, drive))
    decay, drive = torch.broadcast_tensors(decay, drive)
    exact = exact_dtype(drive.dtype, drive.device)
    if entering is None:
        return _solve(decay, drive, torch.zeros_like(drive[..., 0, :, :], dtype=exact), False, True)
    return _solve(decay, drive, entering.to(exact).expand_as(drive[..., 0, :, :]), False, False)


def _solve(decay: Tensor, drive: Tensor, entering: Tensor, turned: bool, at_rest: bool) -> Solved:
    return _Recurrence.apply(  # type: ignore[no-untyped-call]
        decay, drive, entering, turned, at_rest
    )


class _Recurrence(torch.autograd.Function):
    """``h_t = decay_t h_{t-1} + drive_t``; if ``turned``, ``h_t = decay_{t+1} h_{t+1} + drive_t``.

    The turned recurrence runs from the last token to the first. It starts from
    ``decay_{T+1} h_{T+1}``, given as ``entering``, and returns ``decay_1 h_1`` as its final state:
    so each of the two recurrences is the adjoint of the other with conjugate decays. With
    ``at_rest`` the first decay multiplies nothing, and it may be infinite.
    """

    @staticmethod
    def forward(
        decay: Tensor, drive: Tensor, entering: Tensor, turned: bool, at_rest: bool
    ) -> Solved:
        """Time is the first axis in memory, so that the numbers of a token are contiguous.

        The running state is in double precision: that costs nothing here, and decays close to one
        would otherwise lose digits over many tokens.
        """
        decays, drives = (part.movedim(-3, 0).contiguous() for part in (decay, drive))
        if all(applies(part, work=drives.numel()) for part in (decays, drives, entering)):
            solve = _compiled
        else:
            solve = _at_once if drive.numel() <= FEW else _in_place
        states, leaving = solve(decays, drives, entering, turned, at_rest)
        return states.movedim(0, -3), torch.zeros_like(leaving) if turned and at_rest else leaving

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Solved) -> None:
        decay, _, entering, ctx.turned, ctx.at_rest = inputs
        ctx.save_for_backward(decay, entering, output[0])
        ctx.save_for_forward(decay, entering, output[0])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        decay, entering, states = ctx.saved_tensors
        by_states, by_leaving = _given(grads[0], grads[1], states, entering)
        by_drive, by_entering = _solve(
            decay.conj(), by_states, by_leaving, not ctx.turned, ctx.at_rest
        )
        if not ctx.needs_input_grad[0]:
            return None, by_drive, by_entering, None, None
        if ctx.turned:
            by_decay = _shifted(by_leaving, by_drive, ctx.at_rest) * states.conj()
        else:
            by_decay = _shifted(entering, states, ctx.at_rest).conj() * by_drive
        return by_decay.to(decay.dtype), by_drive, by_entering, None, None

    @staticmethod
    def jvp(
        ctx: Any,
        by_decay: Tensor | None,
        by_drive: Tensor | None,
        by_entering: Tensor | None,
        *_: None,
    ) -> Solved:
        decay, entering, states = ctx.saved_tensors
        by_decay = torch.zeros_like(decay) if by_decay is None else by_decay
        by_drive, by_entering = _given(by_drive, by_entering, states, entering)
        if not ctx.turned:
            drive = by_drive + by_decay * _shifted(entering, states, ctx.at_rest)
            return _solve(decay, drive.to(states.dtype), by_entering, False, ctx.at_rest)
        scaled = by_decay * states
        drive = by_drive + torch.cat(
            [scaled[..., 1:, :, :], torch.zeros_like(scaled[..., :1, :, :])], -3
        )
        found, left = _solve(decay, drive.to(states.dtype), by_entering, True, ctx.at_rest)
        return found, left if ctx.at_rest else left + scaled[..., 0, :, :]

    @staticmethod
    def vmap(
        info: Any,
        axes: tuple[int | None, ...],
        decay: Tensor,
        drive: Tensor,
        entering: Tensor,
        turned: bool,
        at_rest: bool,
    ) -> tuple[Solved, tuple[int, int]]:
        decay, drive, entering = (
            part.expand(info.batch_size, *part.shape) if axis is None else part.movedim(axis, 0)
            for part, axis in zip((decay, drive, entering), axes, strict=False)
        )
        return _solve(decay, drive, entering, turned, at_rest), (0, 0)


def _given(
    by_states: Tensor | None, by_last: Tensor | None, states: Tensor, last: Tensor
) -> Solved:
    """Derivatives by all states and by the initial or final one, zeros where they are None."""
    if by_states is None:
        zero = torch.zeros_like(last if by_last is None else by_last)
        by_states = zero.to(states.dtype).unsqueeze(-3).expand_as(states)
    if by_last is None:
        by_last = torch.zeros_like(by_states[..., 0, :, :], dtype=last.dtype)
    return by_states, by_last


def _shifted(first: Tensor, states: Tensor, at_rest: bool) -> Tensor:
    """``states`` shifted one token later, with ``first`` in front, or zeros if ``at_rest``."""
    return states_before(torch.zeros_like(first) if at_rest else first, states)


def _compiled(
    decays: Tensor, drives: Tensor, entering: Tensor, turned: bool, at_rest: bool
) -> Solved:
    from dsf.systems.kernels.diagonal_scan import scan_states

    states = torch.empty_like(drives)
    running = entering.clone(memory_format=torch.contiguous_format)
    parts = (part.resolve_conj().resolve_neg().flatten(1) for part in (decays, drives))
    flat = states.flatten(1), running.flatten()
    scan_states(*parts, turned=turned, at_rest=at_rest, into=flat)
    return states, running


def _at_once(
    decays: Tensor, drives: Tensor, entering: Tensor, turned: bool, at_rest: bool
) -> Solved:
    """The whole drive in double precision, one operation a token."""
    states = drives.to(entering.dtype, copy=True)
    each, factors = states.unbind(), decays.to(entering.dtype).unbind()
    if turned:
        each[-1].add_(entering)
        for t in range(len(each) - 1, 0, -1):
            each[t - 1].addcmul_(factors[t], each[t])
        leaving = factors[0] * each[0]
    else:
        if not at_rest:
            each[0].addcmul_(factors[0], entering)
        for t in range(1, len(each)):
            each[t].addcmul_(factors[t], each[t - 1])
        leaving = each[-1].clone()
    return states.to(drives.dtype), leaving


def _in_place(
    decays: Tensor, drives: Tensor, entering: Tensor, turned: bool, at_rest: bool
) -> Solved:
    """One token in double precision at a time, so that the working buffers stay in the cache."""
    states, running = torch.empty_like(drives), entering.clone()
    buffer = torch.empty_like(running)
    for t in range(len(drives) - 1, -1, -1) if turned else range(len(drives)):
        if not turned and not (at_rest and t == 0):
            running.mul_(buffer.copy_(decays[t]))
        running.add_(buffer.copy_(drives[t]))
        states[t].copy_(running)
        if turned:
            running.mul_(buffer.copy_(decays[t]))
    return states, running
