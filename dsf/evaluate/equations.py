"""The two equations of a system."""

from collections.abc import Callable

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.coefficient import Coefficient, Matrices
from dsf.solve import states_before
from dsf.system import System
from dsf.transition import Transition

Solver = Callable[[Transition, Tensor, Tensor | None], tuple[Tensor, Tensor]]


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
    seen, leaving = solve(system.A, drive, entering)
    if system.reads_before_update:
        before = torch.zeros_like(seen[..., 0, :, :]) if entering is None else entering
        seen = states_before(before, seen)
    return applied(system.C, seen) + applied(system.feedthrough, signal), leaving


def applied(matrices: Matrices, columns: Tensor) -> Tensor:
    """``matrices @ columns``; products of single rows and columns are faster entry by entry."""
    if isinstance(matrices, Coefficient):
        return matrices @ columns
    if matrices.shape[-1] == 1:
        return matrices * columns
    if matrices.shape[-2] == columns.shape[-1] == 1:
        return (matrices.mT * columns).sum(dim=-2, keepdim=True)
    return matrices @ columns
