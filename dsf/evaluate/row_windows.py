"""Rows of the map of any system, computed window by window from folded panels."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.arguments import forward_form
from dsf.evaluate.windows import fold
from dsf.systems.system import System


def forward_rows(
    system: System, boundaries: list[int]
) -> Iterator[Shaped[Tensor, "*batch rows columns"]]:
    """The rows between consecutive boundaries.

    The state as a function of all earlier inputs is carried along, with a column for each input.
    """
    past: Tensor | None = None  # *batch state columns
    for span in pairwise(_from_the_start(boundaries)):
        panel = fold(system, *span)
        if past is None:
            past = panel.write[..., :0]
        if span[0] >= boundaries[0]:
            ahead = _zeros(system, panel.local.shape[-2], system.steps - span[1])
            weights = torch.cat([panel.reach @ past, panel.local, ahead], dim=-1)
            yield weights.to(system.dtype)
        if span[1] < boundaries[-1]:
            past = torch.cat([panel.carried(past), panel.write], dim=-1)


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
        reach, behind = panel.reach, []  # weights of all earlier windows, the last window first
        for before in reversed(panels):
            behind.append(reach @ before.write)
            reach = before.seen_before(reach)
        ahead = _zeros(system, panel.local.shape[-2], span[0])
        weights = torch.cat([*behind[::-1], panel.local, ahead], dim=-1)
        yield _reversed(weights, system).to(system.dtype)


def _from_the_start(boundaries: list[int]) -> list[int]:
    """The boundaries, preceded by those of windows of the same width from token 0 on."""
    width = max(stop - start for start, stop in pairwise(boundaries))
    return [*range(0, boundaries[0], width), *boundaries]


def _reversed(weights: Tensor, system: System) -> Tensor:
    by_token = weights.unflatten(-1, (system.steps, system.input_size))
    by_token = by_token.unflatten(-3, (-1, system.output_size))
    return by_token.flip(-4, -2).flatten(-2).flatten(-3, -2)


def _zeros(system: System, rows: int, tokens: int) -> Tensor:
    zero = torch.zeros((), dtype=system.dtype, device=system.device)
    return zero.expand(*system.batch, rows, tokens * system.input_size)
