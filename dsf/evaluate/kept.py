"""What earlier windows left in the state, as columns that later rows read."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.windows.panel import Panel
from dsf.system import System
from dsf.transition import ScaledIdentity


class Kept(ABC):
    """The state as a matrix: one column for every input so far."""

    @abstractmethod
    def read(
        self, reach: Shaped[Tensor, "*batch rows state"]
    ) -> Shaped[Tensor, "*batch rows columns"]:
        """What rows that reach into the entering state make of every column."""

    @abstractmethod
    def pass_over(self, panel: Panel) -> None:
        """Carry the columns over a window and append the window's own."""


def nothing_kept(system: System, first: Panel) -> Kept:
    """The start of a sequence whose first window is ``first``; the cheapest form that serves."""
    wants_gradients = first.reach.requires_grad or first.write.requires_grad
    scales = isinstance(system.A, ScaledIdentity) and system.state_size > 0
    if scales and not wants_gradients:
        return Scaled(system, first.write.dtype)
    return Carried(system, first.write.dtype)


class Carried(Kept):
    """Columns carried over every window as they are: any structure, with gradients."""

    def __init__(self, system: System, dtype: torch.dtype):
        zero = torch.zeros((), dtype=dtype, device=system.device)
        self.columns = zero.expand(*system.batch, system.state_size, 0)

    def read(self, reach: Tensor) -> Tensor:
        return reach @ self.columns

    def pass_over(self, panel: Panel) -> None:
        self.columns = torch.cat([panel.carried(self.columns), panel.write], dim=-1)


class Scaled(Kept):
    """Columns as they were written, and one factor each: where a window only scales the state.

    Long sequences are read in one product without rewriting ``state x columns`` numbers a window.
    """

    def __init__(self, system: System, dtype: torch.dtype):
        columns = system.steps * system.input_size
        size = (*system.batch, system.state_size, columns)
        self.columns = torch.empty(size, dtype=dtype, device=system.device)
        exact = torch.promote_types(dtype, torch.float64)
        self.factor = torch.ones((*system.batch, 1, columns), dtype=exact, device=system.device)
        self.filled = 0

    def read(self, reach: Tensor) -> Tensor:
        factor = self.factor[..., : self.filled].to(self.columns.dtype)
        return (reach @ self.columns[..., : self.filled]).mul_(factor)

    def pass_over(self, panel: Panel) -> None:
        unit = self.factor.new_ones(*self.columns.shape[:-1], 1)
        self.factor[..., : self.filled] *= panel.carried(unit)[..., :1, :]
        stop = self.filled + panel.write.shape[-1]
        self.columns[..., self.filled : stop] = panel.write
        self.filled = stop
