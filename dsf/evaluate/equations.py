"""The two equations of a system."""

from collections.abc import Callable

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.coefficient import Coefficient, Matrices
from dsf.system import System
from dsf.transition import Transition

Solver = Callable[[Transition, Tensor], Tensor]


def advance(
    system: System,
    signal: Shaped[Tensor, "*batch time input channel"],
    entering: Shaped[Tensor, "*batch state channel"] | None,
    *,
    solve: Solver,
) -> tuple[Shaped[Tensor, "*batch time output channel"], Shaped[Tensor, "*batch state channel"]]:
    """Response to ``signal`` from the state ``entering``, and the state after the last token.

    The one place where the two equations of a system are written down. From rest, ``entering`` is
    None.
    """
    drive = applied(system.B, signal)
    if entering is not None:
        entering = entering.unsqueeze(-3)
        first = drive[..., :1, :, :] + system.A.window(0, 1) @ entering
        drive = torch.cat([first, drive[..., 1:, :, :]], dim=-3)
    seen = states = solve(system.A, drive)
    if system.reads_before_update:
        before = torch.zeros_like(states[..., :1, :, :]) if entering is None else entering
        seen = torch.cat([before, states[..., :-1, :, :]], dim=-3)
    response = applied(system.C, seen) + applied(system.feedthrough, signal)
    return response, states[..., -1, :, :]


def applied(matrices: Matrices, columns: Tensor) -> Tensor:
    """``matrices @ columns``; products of single rows and columns are faster entry by entry."""
    if isinstance(matrices, Coefficient):
        return matrices @ columns
    if matrices.shape[-1] == 1:
        return matrices * columns
    if matrices.shape[-2] == columns.shape[-1] == 1:
        return (matrices.mT * columns).sum(dim=-2, keepdim=True)
    return matrices @ columns
