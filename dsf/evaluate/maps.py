"""The attention map of a system as a matrix, selected rows of it, or blocks of rows."""

from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import pairwise
from typing import Literal, NamedTuple, overload

import torch
from jaxtyping import Int
from torch import Tensor

from dsf.evaluate.arguments import Weights, check_operator, check_out
from dsf.evaluate.compiled import row_loops
from dsf.evaluate.enclosure import Enclosure, enclosed_map
from dsf.evaluate.loops import RowWriter
from dsf.evaluate.memory_plan import check_room
from dsf.evaluate.windows import backward_rows, forward_rows
from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import at_least, of_kind
from dsf.systems.composite import (
    ExplicitMap,
    Operator,
    SystemSum,
    kept_rows,
    kept_window,
    response_dtype,
)
from dsf.systems.system import System

SIZE = 64


class Rows(NamedTuple):
    """Some rows of a map, with all columns."""

    weights: Weights
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
        steps = map_or_system.steps
        return blocks_between(map_or_system, 0, steps, size=size, overwrites=overwrites)
    return iter(map_or_system)


def blocks_between(
    system: Operator, first: int, last: int, *, size: int = SIZE, overwrites: bool = False
) -> Iterator[Rows]:
    """The rows of the queries ``first`` to ``last - 1`` in blocks of ``size`` tokens."""
    boundaries = [*range(first, last, size), last]
    if isinstance(system, SystemSum):
        parts = zip(*(blocks_between(part, first, last, size=size) for part in system), strict=True)
        return (
            several[0]._replace(weights=reduce(torch.add, [rows.weights for rows in several]))
            for several in parts
        )
    reads = getattr(system, "read_steps", system.steps)
    read = torch.arange(reads, device=system.device).repeat_interleave(system.input_size)
    windows = _windows(system, boundaries, overwrites)
    return _with_tokens(windows, boundaries, system.output_size, read)


def _windows(
    system: System | ExplicitMap, boundaries: list[int], overwrites: bool
) -> Iterator[Tensor]:
    if isinstance(system, ExplicitMap):
        return (system.rows.window(*span).squeeze(-2) for span in pairwise(boundaries))
    rows = kept_rows(system)
    loops = row_loops(system, boundaries[-1]) if rows is None else None
    if loops is not None:
        return _compiled(system, boundaries, loops(), overwrites)
    if rows is not None:
        windows = (kept_window(system, rows, *span) for span in pairwise(boundaries))
    else:
        window_rows = backward_rows if system.runs_backward else forward_rows
        windows = (weights for weights in window_rows(system, boundaries))
    return (weights.real if system.takes_real_part else weights for weights in windows)


def _compiled(
    system: System, boundaries: list[int], write: RowWriter, overwrites: bool
) -> Iterator[Tensor]:
    rows = None
    for start, stop in pairwise(boundaries):
        if rows is None or not overwrites:  # new memory takes ten times as long to write
            size = (*system.batch, stop - start, system.steps)
            rows = torch.empty(size, dtype=system.dtype, device=system.device)
        write(start, stop, rows)
        yield rows[..., : stop - start, :]


def _with_tokens(
    windows: Iterator[Tensor], boundaries: list[int], outputs: int, read: Tensor
) -> Iterator[Rows]:
    for weights, span in zip(windows, pairwise(boundaries), strict=True):
        written = torch.arange(*span, device=read.device)
        yield Rows(weights, written.repeat_interleave(outputs), read)


def _of_tensor(weights: Tensor, size: int, outputs: int, inputs: int) -> Iterator[Rows]:
    at_least(1, "row_blocks", "outputs", outputs)
    at_least(1, "row_blocks", "inputs", inputs)
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
    read = torch.arange(tokens, device=weights.device).repeat_interleave(inputs)
    boundaries = [*range(0, tokens, size), tokens]
    windows = (weights[..., a * outputs : b * outputs, :] for a, b in pairwise(boundaries))
    return _with_tokens(windows, boundaries, outputs, read)


Selection = slice | int


@overload
def attention_map(
    system: Operator,
    rows: Selection | None = None,
    *,
    out: Weights | None = None,
    enclosed: Literal[False] = False,
) -> Weights: ...


@overload
def attention_map(
    system: Operator, rows: Selection | None = None, *, enclosed: Literal[True]
) -> Enclosure: ...


def attention_map(
    system: Operator,
    rows: Selection | None = None,
    *,
    out: Weights | None = None,
    enclosed: bool = False,
) -> Weights | Enclosure:
    """The matrix that ``system`` applies to its tokens: query i (row) reads key j (column).

    For i > j the entry is ``C_i A_i ... A_{j+1} B_j``, on the diagonal ``C_i B_i + D_i``. With
    several ports the rows run over (token, output) and the columns over (token, input). The
    response to the initial state is not part of the map.

    Args:
        system: a system, a sum of systems, or an explicit map.
        rows: the queries (rows) to return, a slice or one token; all by default.
        out: a tensor to write the map into and to return, for example that of an earlier call:
            fresh memory takes much longer to fill. No gradient goes through it.
        enclosed: return an ``Enclosure`` instead: a midpoint and a radius in float64, so that every
            entry of the map that the stored coefficients define lies within the radius, whatever
            was rounded. It takes one step of the recurrence for all columns per token, time² x
            state operations, on the CPU, and about thirty times as long as the map alone.

    Raises:
        ShapeError: if ``out`` has another shape, number type or device than the map.
        MapTooLarge: if the map would take more than half of the free memory.
        IndexError: if ``rows`` selects a token outside the sequence, or none.
        TypeError: if ``system`` is of another type, or ``rows`` neither a number nor a slice.

    Example:
        A state with decay 0.5:

        >>> import dsf, torch
        >>> from dsf.systems import transition
        >>> one = torch.ones(3, 1)
        >>> system = dsf.System.from_write_and_read(transition.Diagonal(one / 2), one, one)
        >>> dsf.attention_map(system)
        tensor([[1.0000, 0.0000, 0.0000],
                [0.5000, 1.0000, 0.0000],
                [0.2500, 0.5000, 1.0000]])
        >>> dsf.attention_map(system, rows=-1)
        tensor([[0.2500, 0.5000, 1.0000]])
    """
    check_operator("attention_map", system)
    of_kind("attention_map", "enclosed", enclosed, bool, "True or False")
    if enclosed:
        return _enclosed(system, rows, out)
    first, last, stride = span(rows, system.steps)
    outputs = system.output_size
    columns = getattr(system, "read_steps", system.steps) * system.input_size
    shape = (*system.batch, (last - first) * outputs, columns)
    loops = row_loops(system, last) if isinstance(system, System) else None
    if out is not None:
        if stride != 1:
            raise ValueError(
                "attention_map: 'out' takes consecutive rows, but the given range skips some. "
                "Leave out 'out', or select rows afterwards."
            )
        check_out("attention_map", out, shape, response_dtype(system), system.device)
        if loops is not None and out.is_contiguous():  # they need little memory for a row
            loops()(first, last, out.detach())
        else:
            filled = 0
            for block in blocks_between(system, first, last):
                stop = filled + block.weights.shape[-2]
                out.detach()[..., filled:stop, :] = block.weights
                filled = stop
        return out
    check_room("attention_map", shape, system.dtype, system.device)
    if loops is not None:
        weights = torch.zeros(shape, dtype=system.dtype, device=system.device)
        loops()(first, last, weights, clean=True)
    else:
        weights = torch.cat([rows.weights for rows in blocks_between(system, first, last)], dim=-2)
    if stride == 1:
        return weights
    return weights.unflatten(-2, (-1, outputs))[..., ::stride, :, :].flatten(-3, -2)


def _enclosed(system: Operator, rows: Selection | None, out: Tensor | None) -> Enclosure:
    if out is not None:
        raise ValueError(
            "attention_map: 'out' takes a map, but enclosed=True gives midpoints and radii. Leave "
            "out 'out'."
        )
    first, last, stride = span(rows, system.steps)
    columns = getattr(system, "read_steps", system.steps) * system.input_size
    shape = (*system.batch, 2 * system.steps * system.output_size, columns)
    check_room("attention_map", shape, torch.float64, torch.device("cpu"))
    whole = enclosed_map(system)
    chosen = torch.arange(system.steps * system.output_size).unflatten(0, (system.steps, -1))
    chosen = chosen[first:last:stride].flatten()
    return Enclosure(whole.midpoint[..., chosen, :], whole.radius[..., chosen, :])


def span(rows: Selection | None, steps: int, owner: str = "attention_map") -> tuple[int, int, int]:
    """The first token of a choice of rows, the one behind the last, and the step between them."""
    if rows is None:
        return 0, steps, 1
    if isinstance(rows, int):
        token = rows + steps if rows < 0 else rows
        if not 0 <= token < steps:
            raise IndexError(
                f"{owner}: of 'rows', row {rows} is outside the sequence of {steps} tokens."
            )
        return token, token + 1, 1
    if not isinstance(rows, slice):
        raise TypeError(
            f"{owner}: 'rows' must be the number of a token or a slice, but it is "
            f"{rows!r}. Take several rows one by one, or a slice that holds them."
        )
    first, last, stride = rows.indices(steps)
    if first >= last or stride < 1:
        raise IndexError(
            f"{owner}: rows {rows} select no token of {steps}; ask for a forward range."
        )
    return first, last, stride
