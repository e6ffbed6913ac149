"""Solvers of the state equation h_t = A_t h_{t-1} + drive_t: (A, drive, h_0) -> states.

``recurrence`` takes one token after the other, ``doubling`` is a parallel prefix scan in a
logarithmic number of passes, and uncoupled states (each entry with its own decay) have a compiled
loop.
"""

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.runtime.number_types import exact_dtype
from dsf.systems.coefficient import delay
from dsf.systems.kernels import applies
from dsf.systems.transition import ScaledIdentity, Shift, Transition

__all__ = ["continued", "doubling", "recurrence", "states_before"]

States = Shaped[Tensor, "*batch time state channel"]
State = Shaped[Tensor, "*batch state channel"]
Solution = tuple[States, State]


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
    the precision of ``drive``, the last one double precision where the device has it, in which all
    is computed: that costs nothing here, and decays close to one would lose digits otherwise.
    """
    if decay.is_complex() or drive.is_complex():
        decay, drive = (part.to(part.dtype.to_complex()) for part in (decay, drive))
    decay, drive = torch.broadcast_tensors(decay, drive)
    exact = exact_dtype(drive.dtype, drive.device)
    at_rest = entering is None  # the first decay then multiplies nothing, and it may be infinite
    running = torch.zeros_like(drive[..., 0, :, :], dtype=exact)
    if entering is not None:
        running = entering.to(exact).expand_as(running)
    if all(applies(part, work=drive.numel()) for part in (decay, drive, running)):
        return _compiled(decay, drive, running, at_rest)
    decays, found = decay.to(exact).unbind(-3), list(drive.to(exact).unbind(-3))
    for t, (factor, driven) in enumerate(zip(decays, found, strict=True)):
        if t or not at_rest:
            found[t] = torch.addcmul(driven, factor, running)
        running = found[t]
    return torch.stack(found, dim=-3).to(drive.dtype), running


def _compiled(decay: Tensor, drive: Tensor, running: Tensor, at_rest: bool) -> Solution:
    """Time is the first axis in memory, so that the numbers of a token are contiguous."""
    from dsf.systems.kernels.states import scan_states

    parts = [part.movedim(-3, 0).contiguous() for part in (decay, drive)]
    states = torch.empty_like(parts[1])
    leaving = running.clone(memory_format=torch.contiguous_format)
    given = (part.resolve_conj().resolve_neg().flatten(1) for part in parts)
    scan_states(*given, at_rest=at_rest, into=(states.flatten(1), leaving.flatten()))
    return states.movedim(0, -3), leaving


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
    if isinstance(A, Shift) and A.moves_by_one:
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
