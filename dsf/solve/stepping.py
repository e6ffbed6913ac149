"""One token after the other."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.transition import Transition
from dsf.transition.timeline import cut


def recurrence(
    A: Transition, drive: Shaped[Tensor, "*batch time state channel"]
) -> Shaped[Tensor, "*batch time state channel"]:
    """Solve ``h_t = A_t h_{t-1} + drive_t`` as it is written."""
    state = cut(drive, 0, 1, axis=-3)
    states = [state]
    for t in range(1, A.steps):
        state = A.window(t, t + 1) @ state + cut(drive, t, t + 1, axis=-3)
        states.append(state)
    return torch.cat(states, dim=-3)
