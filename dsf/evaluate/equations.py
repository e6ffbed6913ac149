"""The two equations of a system."""

from collections.abc import Callable

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.coefficient import Matrices, dense_of
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
    drive = _applied(system.B, signal)
    first = drive[..., :1, :, :] + system.A.window(0, 1) @ entering
    states = solve(system.A, torch.cat([first, drive[..., 1:, :, :]], dim=-3))
    seen = states
    if system.reads_before_update:
        seen = torch.cat([entering, states[..., :-1, :, :]], dim=-3)
    response = _applied(system.C, seen) + _applied(system.feedthrough, signal)
    return response, states[..., -1, :, :]


def _applied(matrices: Matrices, columns: Tensor) -> Tensor:
    """``matrices @ columns``; products of single rows and columns are faster entry by entry."""
    matrices = dense_of(matrices)
    if matrices.shape[-1] == 1:
        return matrices * columns
    if matrices.shape[-2] == columns.shape[-1] == 1:
        return (matrices.mT * columns).sum(dim=-2, keepdim=True)
    return matrices @ columns
