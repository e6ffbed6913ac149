"""The rows of a map in blocks, so that the whole map is never stored."""

from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from dsf.evaluate.cache import kept_rows, kept_window
from dsf.evaluate.compiled import row_loops
from dsf.evaluate.loops import ReusedRows, RowBuffer
from dsf.evaluate.windows import backward_rows, forward_rows
from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import at_least
from dsf.systems.composite import ExplicitMap, Operator, SystemSum
from dsf.systems.system import System

SIZE = 64


class Rows(NamedTuple):
    """Some rows of a map, with all columns."""

    weights: Shaped[Tensor, "*batch rows columns"]
    written: Int[Tensor, " rows"]  # the query (row) token of each row
    read: Int[Tensor, " columns"]  # the key (column) token of each column

    @property
    def lag(self) -> Int[Tensor, "rows columns"]:
        """Query position minus key position of every weight, in tokens; negative for later keys."""
        return self.written[:, None] - self.read


MapOrSystem = Tensor | Operator | Iterable[Rows]


@checked
def row_blocks(
    map_or_system: MapOrSystem,
    *,
    size: int = SIZE,
    overwrites: bool = False,
    outputs: int = 1,
    inputs: int = 1,
) -> Iterator[Rows]:
    """The rows of a map in blocks of ``size`` queries (rows), from the first token to the last.

    For a system the memory in use is one block and ``state x columns`` numbers, never the map; for
    one that runs backward, one block and the panels of all windows, a few ``state x columns``.

    Args:
        map_or_system: a map, a system, or blocks of rows, which are passed on unchanged.
        size: tokens of a block.
        overwrites: if set, a block may reuse the memory of the one before, which saves much time
            where blocks are used one after the other and not stored.
        outputs, inputs: of a map given as a tensor, how many rows belong to each query and how many
            columns to each key: the ports of the system whose map it is. A tensor alone does not
            know them, and measures that look at lags need them.

    Raises:
        ValueError: if ``size`` is below 1, a tensor is not a stack of maps that are square in
            tokens, or ports are given for anything but a tensor.
        TypeError: if ``map_or_system`` is of another type.

    Example:
        >>> import dsf, torch
        >>> from dsf.systems import transition
        >>> one = torch.ones(3, 1)
        >>> system = dsf.System.from_write_and_read(transition.Diagonal(one / 2), one, one)
        >>> for block in dsf.evaluate.row_blocks(system, size=2):
        ...     print(block.written.tolist(), block.weights.sum(dim=-1).tolist())
        [0, 1] [1.0, 1.5]
        [2] [1.75]
    """
    at_least(1, "row_blocks", "size", size, " token")
    if isinstance(map_or_system, Tensor):
        return _of_tensor(map_or_system, size, outputs, inputs)
    if (outputs, inputs) != (1, 1):
        raise ValueError(
            f"row_blocks: 'outputs' and 'inputs' are for maps given as tensors, but it got "
            f"{type(map_or_system).__name__}, which knows its ports. Leave them out."
        )
    if isinstance(map_or_system, Operator):
        output = ReusedRows() if overwrites else None
        return blocks_between(map_or_system, 0, map_or_system.steps, size=size, output=output)
    return iter(map_or_system)


def blocks_between(
    system: Operator, first: int, last: int, *, size: int = SIZE, output: RowBuffer | None = None
) -> Iterator[Rows]:
    """The rows of the queries ``first`` to ``last - 1`` in blocks of ``size`` tokens."""
    boundaries = [*range(first, last, size), last]
    if isinstance(system, SystemSum):
        parts = zip(*(blocks_between(part, first, last, size=size) for part in system), strict=True)
        return (
            several[0]._replace(weights=reduce(torch.add, [rows.weights for rows in several]))
            for several in parts
        )
    if isinstance(system, ExplicitMap):
        windows = (system.rows.window(*span).squeeze(-2) for span in pairwise(boundaries))
        return _with_tokens(windows, boundaries, system, system.read_steps)
    return _with_tokens(
        _windows(system, boundaries, output or RowBuffer()), boundaries, system, system.steps
    )


def _windows(system: System, boundaries: list[int], output: RowBuffer) -> Iterator[Tensor]:
    rows = kept_rows(system)
    loops = row_loops(system, boundaries[-1]) if rows is None else None
    if loops is not None:
        return loops(boundaries, output)
    if rows is not None:
        windows = (kept_window(system, rows, *span) for span in pairwise(boundaries))
    else:
        window_rows = backward_rows if system.runs_backward else forward_rows
        windows = (weights for weights in window_rows(system, boundaries))
    return (weights.real if system.takes_real_part else weights for weights in windows)


def _with_tokens(
    windows: Iterator[Tensor], boundaries: list[int], system: Operator, reads: int
) -> Iterator[Rows]:
    read = torch.arange(reads, device=system.device).repeat_interleave(system.input_size)
    for weights, span in zip(windows, pairwise(boundaries), strict=True):
        written = torch.arange(*span, device=system.device)
        yield Rows(weights, written.repeat_interleave(system.output_size), read)


def _of_tensor(weights: Tensor, size: int, outputs: int, inputs: int) -> Iterator[Rows]:
    if min(outputs, inputs) < 1:
        raise ValueError(
            f"row_blocks: 'outputs' and 'inputs' must be at least 1, but they are {outputs} and "
            f"{inputs}."
        )
    tokens = weights.shape[-2] // outputs if weights.ndim > 1 else 0
    if weights.ndim < 2 or weights.shape[-2:] != (tokens * outputs, tokens * inputs):
        ports = "" if outputs == inputs == 1 else f", with {outputs} rows and {inputs} columns each"
        raise ValueError(
            f"row_blocks: 'map_or_system' must have as many queries as keys{ports}: a tensor must "
            f"be square in its last two axes if it has one port. But its shape is "
            f"{tuple(weights.shape)}. Name the ports of a map that has several: "
            f"dsf.evaluate.row_blocks(map, outputs=..., inputs=...). Pass a part of a map as "
            f"dsf.evaluate.Rows, which names its query and key tokens."
        )
    token = torch.arange(tokens, device=weights.device)
    read = token.repeat_interleave(inputs)
    spans = pairwise([*range(0, tokens, size), tokens])
    return (
        Rows(
            weights[..., first * outputs : last * outputs, :],
            token[first:last].repeat_interleave(outputs),
            read,
        )
        for first, last in spans
    )
