"""The initial state of a recurrence: added to the first drive, and the state before each token."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.systems.transition import Transition


def with_initial_state(
    A: Transition,
    drive: Shaped[Tensor, "*batch time state channel"],
    entering: Shaped[Tensor, "*batch state channel"] | None,
) -> Shaped[Tensor, "*batch time state channel"]:
    """``drive``, with ``A_1 entering`` added at the first token."""
    if entering is None:
        return drive
    carried = A.window(0, 1) @ entering.unsqueeze(-3)
    dtype = drive.dtype.to_complex() if carried.is_complex() else drive.dtype
    return torch.cat([drive[..., :1, :, :] + carried.to(dtype), drive[..., 1:, :, :]], dim=-3)


def states_before(
    entering: Shaped[Tensor, "*batch state channel"],
    states: Shaped[Tensor, "*batch time state channel"],
) -> Shaped[Tensor, "*batch time state channel"]:
    """The state before every token, ``h_0 ... h_{T-1}``, in the precision of ``states``."""
    first = entering.unsqueeze(-3).to(states.dtype)
    return torch.cat([first, states[..., :-1, :, :]], dim=-3)
