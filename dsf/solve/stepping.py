"""One token after the other."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.solve.entries import entry_by_entry
from dsf.transition import ScaledIdentity, Transition
from dsf.transition.timeline import cut


def recurrence(
    A: Transition, drive: Shaped[Tensor, "*batch time state channel"]
) -> Shaped[Tensor, "*batch time state channel"]:
    """Solve ``h_t = A_t h_{t-1} + drive_t`` as it is written."""
    decay = A.decay.unsqueeze(-1) if isinstance(A, ScaledIdentity) else A.diagonal()
    if decay is not None:
        return entry_by_entry(decay.unsqueeze(-1), drive)
    state = cut(drive, 0, 1, axis=-3)
    states = [state]
    for t in range(1, A.steps):
        state = A.window(t, t + 1) @ state + cut(drive, t, t + 1, axis=-3)
        states.append(state)
    return torch.cat(states, dim=-3)
