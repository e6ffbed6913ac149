"""Solvers of the state equation h_t = A_t h_{t-1} + drive_t: (A, drive, h_0) -> states.

``recurrence`` takes one token after the other, ``doubling`` is a parallel prefix scan in a
logarithmic number of passes, and uncoupled states (each entry with its own decay) have a recurrence
of their own with derivatives.
"""

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.runtime.number_types import exact_dtype
from dsf.systems.kernels import applies
from dsf.systems.transition import ScaledIdentity, Shift, Transition
from dsf.systems.transition.storage import delay

__all__ = ["continued", "doubling", "recurrence", "states_before"]

States = Shaped[Tensor, "*batch time state channel"]
State = Shaped[Tensor, "*batch state channel"]
Solution = tuple[States, State]
Solved = tuple[Tensor, Tensor]  # inside, time comes first


def with_initial_state(A: Transition, drive: States, entering: State | None) -> States:
    """``drive``, with ``A_1 entering`` added at the first token."""
    if entering is None:
        return drive
    carried = A.window(0, 1) @ entering.unsqueeze(-3)
    dtype = drive.dtype.to_complex() if carried.is_complex() else drive.dtype
    return torch.cat([drive[..., :1, :, :] + carried.to(dtype), drive[..., 1:, :, :]], dim=-3)


def states_before(entering: State, states: States) -> States:
    """The state before every token, ``h_0 ... h_{T-1}``, in the precision of ``states``."""
    first = entering.unsqueeze(-3).to(states.dtype)
    return torch.cat([first, states[..., :-1, :, :]], dim=-3)


def doubling(A: Transition, drive: States, entering: State | None = None) -> Solution:
    """Solve ``h_t = A_t h_{t-1} + drive_t`` as a prefix scan.

    After the pass with a given lag, ``state[t]`` is the state that the last ``2 * lag`` tokens
    alone would leave, and ``jump[t]`` is the product of their transitions.

    Returns:
        All states, and the last one.
    """
    state, lag = with_initial_state(A, drive, entering), 1
    # In double precision, so that its products are not rounded again in every pass.
    jump = A.to(dtype=exact_dtype(drive.dtype.to_real(), drive.device))
    while lag < A.steps:
        alike = jump.to(dtype=drive.dtype.to_real())
        state = state + alike @ delay(state, lag, axis=-3)
        jump = jump.compose(jump.delayed(lag))
        lag *= 2
    return state, state[..., -1, :, :]


def uncoupled_states(
    decay: Shaped[Tensor, "..."], drive: States, entering: State | None = None
) -> Solution:
    """Solve ``h_t = decay_t h_{t-1} + drive_t``, one token after the other.

    ``decay`` is broadcast to the axes of ``drive`` and may have a higher precision. The states have
    the precision of ``drive``, the last one double precision where the device has it. Derivatives
    of every order, forward and reverse, are again such recurrences.
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
            solve = _at_once
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


def recurrence(A: Transition, drive: States) -> States:
    """Solve ``h_t = A_t h_{t-1} + drive_t`` token by token, from a zero initial state."""
    return continued(A, drive, None)[0]


def continued(A: Transition, drive: States, entering: State | None) -> Solution:
    """All states from the initial state ``entering`` (zero if None), and the last state.

    Where the states are uncoupled the last state is returned in double precision, so that carrying
    it from window to window loses no digits, however many windows a long sequence is cut into.
    """
    decay = A.decay.unsqueeze(-1) if isinstance(A, ScaledIdentity) else A.diagonal()
    if decay is not None:
        return uncoupled_states(decay.unsqueeze(-1), drive, entering)
    if isinstance(A, Shift) and bool((A.places == 1).all()):
        states = place_by_place(with_initial_state(A, drive, entering))
        return states, states[..., -1, :, :]
    return _token_by_token(A, drive, entering)


def _token_by_token(A: Transition, drive: Tensor, entering: Tensor | None) -> tuple[Tensor, Tensor]:
    """In double precision, because products of many matrices lose digits quickly."""
    dtype = torch.promote_types(A.dtype, drive.dtype)
    exact = exact_dtype(dtype, drive.device)
    A, entering = A.to(dtype=exact), None if entering is None else entering.to(exact)
    state, *later = with_initial_state(A, drive.to(exact), entering).unbind(dim=-3)
    states = [state.to(dtype)]
    for t, driven in enumerate(later, start=1):
        state = (A.window(t, t + 1) @ state.unsqueeze(-3)).squeeze(-3) + driven
        states.append(state.to(dtype))
    return torch.stack(states, dim=-3), state


def place_by_place(drive: States) -> States:
    """States of a delay line that moves on by one position a token, position by position."""
    if drive.shape[-2] == 0:
        return drive
    first, *others = drive.unbind(dim=-2)
    states = [first]
    for entering in others:
        states.append(entering + delay(states[-1], 1, axis=-2))
    return torch.stack(states, dim=-2)


SAFE = 128
"""Matrices of as many rows are factorised without threads of MKL's own."""


def solved(
    matrices: Shaped[Tensor, "*batch size size"], columns: Shaped[Tensor, "*batch size count"]
) -> Shaped[Tensor, "*batch size count"]:
    """``matrices⁻¹ columns``; larger matrices one after the other."""
    batch = torch.broadcast_shapes(matrices.shape[:-2], columns.shape[:-2])
    if matrices.shape[-1] <= SAFE or batch.numel() < 2 or matrices.device.type != "cpu":
        return torch.linalg.solve(matrices, columns)
    several = matrices.expand(*batch, *matrices.shape[-2:]).flatten(0, -3)
    sides = columns.expand(*batch, *columns.shape[-2:]).flatten(0, -3)
    pairs = zip(several, sides, strict=True)
    found = [torch.linalg.solve(matrix, side) for matrix, side in pairs]
    return torch.stack(found).view(*batch, *columns.shape[-2:])
