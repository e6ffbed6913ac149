"""One token after the other."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.transition import ScaledIdentity, Transition
from dsf.transition.timeline import cut


def recurrence(
    A: Transition, drive: Shaped[Tensor, "*batch time state channel"]
) -> Shaped[Tensor, "*batch time state channel"]:
    """Solve ``h_t = A_t h_{t-1} + drive_t`` as it is written."""
    decay = A.decay.unsqueeze(-1) if isinstance(A, ScaledIdentity) else A.diagonal()
    if decay is not None:
        return _entry_by_entry(decay.unsqueeze(-1), drive)
    state = cut(drive, 0, 1, axis=-3)
    states = [state]
    for t in range(1, A.steps):
        state = A.window(t, t + 1) @ state + cut(drive, t, t + 1, axis=-3)
        states.append(state)
    return torch.cat(states, dim=-3)


def _entry_by_entry(decay: Tensor, drive: Tensor) -> Tensor:
    """Time comes first in memory, so that every token is one run of numbers.

    The running state is kept in double precision, which costs nothing here and saves the digits
    that a slow decay loses over many tokens.
    """
    decays, drives = (part.movedim(-3, 0).contiguous().unbind(0) for part in (decay, drive))
    state = drives[0].to(torch.promote_types(drive.dtype, torch.float64))
    states = [drives[0]]
    for each, added in zip(decays[1:], drives[1:], strict=True):
        state = torch.addcmul(added, each, state)
        states.append(state.to(drive.dtype))
    return torch.stack(states).movedim(0, -3)
