"""The state equation and the output equation of a system."""

from collections.abc import Callable

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.systems.coefficient import Coefficient, Matrices
from dsf.systems.solve import states_before
from dsf.systems.system import System
from dsf.systems.transition import Transition

Solver = Callable[[Transition, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def advance(
    system: System,
    signal: Shaped[Tensor, "*batch time input channel"],
    entering: Shaped[Tensor, "*batch state channel"] | None,
    *,
    solve: Solver,
) -> tuple[Shaped[Tensor, "*batch time output channel"], Shaped[Tensor, "*batch state channel"]]:
    """Response to ``signal`` from the state ``entering``, and the state after the last token.

    Every evaluator that steps through tokens uses these two equations. ``entering`` is None for a
    zero initial state.
    """
    drive = applied(system.B, signal)
    seen, leaving = solve(system.A, drive, entering)
    if system.reads_before_update:
        before = torch.zeros_like(seen[..., 0, :, :]) if entering is None else entering
        seen = states_before(before, seen)
    return applied(system.C, seen) + applied(system.feedthrough, signal), leaving


def applied(matrices: Matrices, columns: Tensor) -> Tensor:
    """``matrices @ columns``; products with a single row or column are faster elementwise."""
    if isinstance(matrices, Coefficient):
        return matrices @ columns
    if matrices.shape[-1] == 1:
        return matrices * columns
    if matrices.shape[-2] == columns.shape[-1] == 1:
        return (matrices.mT * columns).sum(dim=-2, keepdim=True)
    return matrices @ columns
