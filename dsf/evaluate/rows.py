"""The map of a system, a block of rows at a time."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from dsf.composite import ExplicitMap, Operator, RowSource, SystemSum
from dsf.evaluate.equations import forward_form
from dsf.evaluate.cache import kept_rows
from dsf.evaluate.folding import fold
from dsf.system import System

SIZE = 64


class Rows(NamedTuple):
    """Some rows of a map, every column present."""

    weights: Shaped[Tensor, "*batch rows columns"]
    written: Int[Tensor, " rows"]  # the token each row writes to
    read: Int[Tensor, " columns"]  # the token each column reads from

    @property
    def lag(self) -> Int[Tensor, "rows columns"]:
        """How many tokens back each weight reaches; negative looks ahead."""
        return self.written[:, None] - self.read


MapOrSystem = Tensor | Operator | Iterable[Rows]


def row_blocks(map_or_system: MapOrSystem, *, size: int = SIZE) -> Iterator[Rows]:
    """The rows of a map in blocks of ``size`` written tokens, from the first token to the last.

    From a system whose map never fits this holds one block and ``state x columns`` numbers. A sum
    with a part that runs backward holds that part's whole map.

    Raises:
        ValueError: if ``size`` is below 1, or a tensor is not a stack of square maps.
    """
    if size < 1:
        raise ValueError(f"row_blocks: size must be at least 1 token, but it is {size}.")
    if isinstance(map_or_system, Tensor):
        yield from _of_tensor(map_or_system, size)
    elif isinstance(map_or_system, SystemSum):
        yield from _of_sum(map_or_system, size)
    elif isinstance(map_or_system, ExplicitMap):
        yield from _of_source(map_or_system.rows, size)
    elif isinstance(map_or_system, System):
        yield from _of_system(map_or_system, size)
    else:
        yield from map_or_system


def _of_tensor(weights: Tensor, size: int) -> Iterator[Rows]:
    if weights.ndim < 2 or weights.shape[-1] != weights.shape[-2]:
        raise ValueError(
            f"row_blocks: a map given as a tensor must be square in its last two axes, but its "
            f"shape is {tuple(weights.shape)}. Pass a part of a map as dsf.evaluate.Rows, which "
            f"knows its tokens."
        )
    token = torch.arange(weights.shape[-1], device=weights.device)
    for start in range(0, len(token), size):
        yield Rows(weights[..., start : start + size, :], token[start : start + size], token)


def _of_source(rows: RowSource, size: int) -> Iterator[Rows]:
    steps = rows.shape[-3]
    read = torch.arange(rows.shape[-1], device=rows.device)
    for start in range(0, steps, size):
        stop = min(start + size, steps)
        written = torch.arange(start, stop, device=rows.device)
        yield Rows(rows.window(start, stop).squeeze(-2), written, read)


def _of_sum(parts: SystemSum, size: int) -> Iterator[Rows]:
    for blocks in zip(*(row_blocks(part, size=size) for part in parts), strict=True):
        weights = torch.stack([block.weights for block in blocks]).sum(dim=0)
        yield Rows(weights, blocks[0].written, blocks[0].read)


def _of_system(system: System, size: int) -> Iterator[Rows]:
    rows = kept_rows(system)
    if rows is not None:
        yield from _of_source(rows, size)
    elif system.runs_backward:
        yield from _backward(system, size)
    else:
        yield from _forward(system, size)


def _forward(system: System, size: int) -> Iterator[Rows]:
    steps, inputs = system.steps, system.input_size
    token = torch.arange(steps, device=system.device)
    read = token.repeat_interleave(inputs)
    zero = torch.zeros((), dtype=system.dtype, device=system.device)
    past = zero.expand(*system.batch, system.state_size, 0)
    for start in range(0, steps, size):
        stop = min(start + size, steps)
        panel = fold(system, start, stop)
        ahead = zero.expand(*system.batch, panel.local.shape[-2], inputs * (steps - stop))
        weights = torch.cat([panel.reach @ past, panel.local, ahead], dim=-1)
        written = token[start:stop].repeat_interleave(system.output_size)
        yield Rows(weights.real if system.takes_real_part else weights, written, read)
        if stop < steps:
            past = torch.cat([panel.carried(past), panel.write], dim=-1)


def _backward(system: System, size: int) -> Iterator[Rows]:
    """The last rows come first, so the whole map is held and handed out in order."""
    turned = torch.cat([block.weights for block in _forward(forward_form(system), size)], dim=-2)
    steps, outputs, inputs = system.steps, system.output_size, system.input_size
    by_token = turned.unflatten(-1, (steps, inputs)).unflatten(-3, (steps, outputs))
    weights = by_token.flip(-4, -2).flatten(-2).flatten(-3, -2)
    token = torch.arange(steps, device=system.device)
    for start in range(0, steps, size):
        stop = min(start + size, steps)
        part = weights[..., start * outputs : stop * outputs, :]
        written = token[start:stop].repeat_interleave(outputs)
        yield Rows(part, written, token.repeat_interleave(inputs))
