"""Rows of the map of any system, computed window by window from folded panels."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.arguments import forward_form
from dsf.evaluate.windows import Panel, fold
from dsf.runtime.number_types import exact_dtype
from dsf.systems.system import System
from dsf.systems.transition import ScaledIdentity


class Past(ABC):
    """The state as a linear function of all earlier inputs: a matrix with a column for each."""

    @abstractmethod
    def read(
        self, reach: Shaped[Tensor, "*batch rows state"]
    ) -> Shaped[Tensor, "*batch rows columns"]:
        """``reach`` times the matrix: weights of earlier inputs in rows that read the state."""

    @abstractmethod
    def pass_over(self, panel: Panel) -> None:
        """Multiply the columns by the transition of a window and append the window's own."""


def empty_past(system: System, first: Panel) -> Past:
    """An empty past, in the cheapest representation for a system with this first panel."""
    wants_gradients = first.reach.requires_grad or first.write.requires_grad
    scales = isinstance(system.A, ScaledIdentity) and system.state_size > 0
    if scales and not wants_gradients:
        return ScaledPast(system, first.write.dtype)
    return CarriedPast(system, first.write.dtype)


class CarriedPast(Past):
    """Columns multiplied by the transition of every window: for any structure, with gradients."""

    def __init__(self, system: System, dtype: torch.dtype):
        zero = torch.zeros((), dtype=dtype, device=system.device)
        self.columns = zero.expand(*system.batch, system.state_size, 0)

    def read(self, reach: Tensor) -> Tensor:
        return reach @ self.columns

    def pass_over(self, panel: Panel) -> None:
        self.columns = torch.cat([panel.carried(self.columns), panel.write], dim=-1)


class ScaledPast(Past):
    """Columns as they were written and one factor for each, where a window only scales the state.

    The columns are read in one product and need not be rewritten in every window.
    """

    def __init__(self, system: System, dtype: torch.dtype):
        columns = system.steps * system.input_size
        size = (*system.batch, system.state_size, columns)
        self.columns = torch.empty(size, dtype=dtype, device=system.device)
        exact = exact_dtype(dtype, system.device)
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


def forward_rows(
    system: System, boundaries: list[int]
) -> Iterator[Shaped[Tensor, "*batch rows columns"]]:
    """The rows between consecutive boundaries.

    The state as a function of all earlier inputs is carried along, with a column for each input.
    """
    past: Past | None = None
    for span in pairwise(_from_the_start(boundaries)):
        panel = fold(system, *span)
        past = past or empty_past(system, panel)
        if span[0] >= boundaries[0]:
            ahead = _zeros(system, panel.local.shape[-2], system.steps - span[1])
            weights = torch.cat([past.read(panel.reach), panel.local, ahead], dim=-1)
            yield weights.to(system.dtype)
        if span[1] < boundaries[-1]:
            past.pass_over(panel)


def backward_rows(
    system: System, boundaries: list[int]
) -> Iterator[Shaped[Tensor, "*batch rows columns"]]:
    """The same for a system that runs backward.

    Its first row reads its last token, so all windows after the first boundary are folded first and
    stored as panels, whose size is proportional to the number of tokens, not to the map.
    """
    steps, forward = system.steps, forward_form(system)
    processed = _from_the_start([steps - boundary for boundary in reversed(boundaries)])
    panels = [fold(forward, *span) for span in pairwise(processed)]
    for span in pairwise(boundaries):
        panel = panels.pop()
        behind = _reaching(panel, panels)
        ahead = _zeros(system, panel.local.shape[-2], span[0])
        weights = torch.cat([*behind, panel.local, ahead], dim=-1)
        yield _reversed(weights, system).to(system.dtype)


def _from_the_start(boundaries: list[int]) -> list[int]:
    """The boundaries, preceded by those of windows of the same width from token 0 on."""
    width = max(stop - start for start, stop in pairwise(boundaries))
    return [*range(0, boundaries[0], width), *boundaries]


def _reaching(panel: Panel, earlier: list[Panel]) -> list[Tensor]:
    """The weights of every earlier window in the rows of ``panel``, the first window first."""
    reach, parts = panel.reach, []
    for before in reversed(earlier):
        parts.append(reach @ before.write)
        reach = before.seen_before(reach)
    return parts[::-1]


def _reversed(weights: Tensor, system: System) -> Tensor:
    """Rows and columns with tokens in reverse order and the ports of each token in order."""
    by_token = weights.unflatten(-1, (system.steps, system.input_size))
    by_token = by_token.unflatten(-3, (-1, system.output_size))
    return by_token.flip(-4, -2).flatten(-2).flatten(-3, -2)


def _zeros(system: System, rows: int, tokens: int) -> Tensor:
    zero = torch.zeros((), dtype=system.dtype, device=system.device)
    return zero.expand(*system.batch, rows, tokens * system.input_size)
