"""Rows of a system's map, window after window, from the panels the windows fold into."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.arguments import forward_form
from dsf.evaluate.windows.folding import fold
from dsf.evaluate.windows.panel import Panel
from dsf.system import System
from dsf.transition import ScaledIdentity


class Past(ABC):
    """The state as a matrix: one column for every input so far."""

    @abstractmethod
    def read(
        self, reach: Shaped[Tensor, "*batch rows state"]
    ) -> Shaped[Tensor, "*batch rows columns"]:
        """What rows that reach into the entering state make of every column."""

    @abstractmethod
    def pass_over(self, panel: Panel) -> None:
        """Carry the columns over a window and append the window's own."""


def empty_past(system: System, first: Panel) -> Past:
    """The start of a sequence whose first window is ``first``; the cheapest form that serves."""
    wants_gradients = first.reach.requires_grad or first.write.requires_grad
    scales = isinstance(system.A, ScaledIdentity) and system.state_size > 0
    if scales and not wants_gradients:
        return ScaledPast(system, first.write.dtype)
    return CarriedPast(system, first.write.dtype)


class CarriedPast(Past):
    """Columns carried over every window as they are: any structure, with gradients."""

    def __init__(self, system: System, dtype: torch.dtype):
        zero = torch.zeros((), dtype=dtype, device=system.device)
        self.columns = zero.expand(*system.batch, system.state_size, 0)

    def read(self, reach: Tensor) -> Tensor:
        return reach @ self.columns

    def pass_over(self, panel: Panel) -> None:
        self.columns = torch.cat([panel.carried(self.columns), panel.write], dim=-1)


class ScaledPast(Past):
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


def forward_rows(
    system: System, borders: list[int]
) -> Iterator[Shaped[Tensor, "*batch rows columns"]]:
    """The rows between every two borders.

    What earlier tokens left in the state is carried along, one column for every input.
    """
    kept: Past | None = None
    for span in pairwise(_from_the_start(borders)):
        panel = fold(system, *span)
        kept = kept or empty_past(system, panel)
        if span[0] >= borders[0]:
            ahead = _zeros(system, panel.local.shape[-2], system.steps - span[1])
            weights = torch.cat([kept.read(panel.reach), panel.local, ahead], dim=-1)
            yield weights.to(system.dtype)
        if span[1] < borders[-1]:
            kept.pass_over(panel)


def backward_rows(
    system: System, borders: list[int]
) -> Iterator[Shaped[Tensor, "*batch rows columns"]]:
    """The same for a system that runs backward.

    Its first row needs its last token, so all windows behind ``borders[0]`` are folded first and
    kept as panels: numbers in proportion to the tokens, not to the map.
    """
    steps, turned = system.steps, forward_form(system)
    met = _from_the_start([steps - border for border in reversed(borders)])
    panels = [fold(turned, *span) for span in pairwise(met)]
    for span in pairwise(borders):
        panel = panels.pop()
        behind = _reaching(panel, panels)
        ahead = _zeros(system, panel.local.shape[-2], span[0])
        weights = torch.cat([*behind, panel.local, ahead], dim=-1)
        yield _turned(weights, system).to(system.dtype)


def _from_the_start(borders: list[int]) -> list[int]:
    """Borders of as wide windows in front of the given ones."""
    width = max(stop - start for start, stop in pairwise(borders))
    return [*range(0, borders[0], width), *borders]


def _reaching(panel: Panel, earlier: list[Panel]) -> list[Tensor]:
    """What the tokens of every earlier window add to the rows of ``panel``, the first one first."""
    reach, parts = panel.reach, []
    for before in reversed(earlier):
        parts.append(reach @ before.write)
        reach = before.seen_before(reach)
    return parts[::-1]


def _turned(weights: Tensor, system: System) -> Tensor:
    """Rows and columns with their tokens in reverse order, their ports in order."""
    by_token = weights.unflatten(-1, (system.steps, system.input_size))
    by_token = by_token.unflatten(-3, (-1, system.output_size))
    return by_token.flip(-4, -2).flatten(-2).flatten(-3, -2)


def _zeros(system: System, rows: int, tokens: int) -> Tensor:
    zero = torch.zeros((), dtype=system.dtype, device=system.device)
    return zero.expand(*system.batch, rows, tokens * system.input_size)
