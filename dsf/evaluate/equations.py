"""The two equations of a system."""

from collections.abc import Callable

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.system import System
from dsf.transition import Transition

Solver = Callable[[Transition, Tensor], Tensor]


def advance(
    system: System,
    signal: Shaped[Tensor, "*batch time input channel"],
    entering: Shaped[Tensor, "*batch state channel"],
    *,
    solve: Solver,
) -> tuple[Shaped[Tensor, "*batch time output channel"], Shaped[Tensor, "*batch state channel"]]:
    """Response to ``signal`` from the state ``entering``, and the state after the last token.

    The one place where the two equations of a system are written down.
    """
    entering = entering.unsqueeze(-3)
    drive = system.B @ signal
    first = drive[..., :1, :, :] + system.A.window(0, 1) @ entering
    states = solve(system.A, torch.cat([first, drive[..., 1:, :, :]], dim=-3))
    earlier = torch.cat([entering, states[..., :-1, :, :]], dim=-3)
    seen = earlier if system.reads_before_update else states
    return system.C @ seen + system.feedthrough @ signal, states[..., -1, :, :]
