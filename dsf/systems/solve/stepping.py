"""Sequential solvers of the state equation: one token after the other."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.runtime.number_types import exact_dtype
from dsf.systems.solve.initial_state import with_initial_state
from dsf.systems.solve.uncoupled import uncoupled_states
from dsf.systems.transition import ScaledIdentity, Shift, Transition
from dsf.systems.transition.timeline import delay


def recurrence(
    A: Transition, drive: Shaped[Tensor, "*batch time state channel"]
) -> Shaped[Tensor, "*batch time state channel"]:
    """Solve ``h_t = A_t h_{t-1} + drive_t`` token by token, from a zero initial state."""
    return continued(A, drive, None)[0]


def continued(
    A: Transition,
    drive: Shaped[Tensor, "*batch time state channel"],
    entering: Shaped[Tensor, "*batch state channel"] | None,
) -> tuple[
    Shaped[Tensor, "*batch time state channel"],
    Shaped[Tensor, "*batch state channel"],
]:
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


def place_by_place(
    drive: Shaped[Tensor, "*batch time state channel"],
) -> Shaped[Tensor, "*batch time state channel"]:
    """States of a delay line that shifts by one position a token: all tokens of a position at once.

    Position n at token t holds what drove it then plus position n - 1 at token t - 1.
    """
    if drive.shape[-2] == 0:
        return drive
    first, *others = drive.unbind(dim=-2)
    states = [first]
    for entering in others:
        states.append(entering + delay(states[-1], 1, axis=-2))
    return torch.stack(states, dim=-2)
