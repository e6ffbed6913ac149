"""One token after the other."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.solve.entries import entry_by_entry
from dsf.transition import ScaledIdentity, Shift, Transition
from dsf.transition.timeline import cut, delay


def recurrence(
    A: Transition, drive: Shaped[Tensor, "*batch time state channel"]
) -> Shaped[Tensor, "*batch time state channel"]:
    """Solve ``h_t = A_t h_{t-1} + drive_t`` as it is written."""
    decay = A.decay.unsqueeze(-1) if isinstance(A, ScaledIdentity) else A.diagonal()
    if decay is not None:
        return entry_by_entry(decay.unsqueeze(-1), drive)
    if isinstance(A, Shift) and bool((A.places == 1).all()):
        return place_by_place(drive)
    state = cut(drive, 0, 1, axis=-3)
    states = [state]
    for t in range(1, A.steps):
        state = A.window(t, t + 1) @ state + cut(drive, t, t + 1, axis=-3)
        states.append(state)
    return torch.cat(states, dim=-3)


def place_by_place(
    drive: Shaped[Tensor, "*batch time state channel"],
) -> Shaped[Tensor, "*batch time state channel"]:
    """States of a delay line that moves one place a token: all tokens of a place at once."""
    if drive.shape[-2] == 0:
        return drive
    first, *others = drive.unbind(dim=-2)
    states = [first]
    for entering in others:
        states.append(entering + delay(states[-1], 1, axis=-2))
    return torch.stack(states, dim=-2)
