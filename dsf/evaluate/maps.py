"""The attention map of a system as a matrix, or selected rows of it."""

from dataclasses import replace
from typing import Literal, overload

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.arguments import check_operator
from dsf.evaluate.compiled import RowLoops, compiled, row_loops
from dsf.evaluate.enclosure import Enclosure, enclosed_map
from dsf.evaluate.loops import WholeMap
from dsf.evaluate.memory_plan import check_room
from dsf.evaluate.rows import blocks_between
from dsf.runtime.shapes import ShapeError, of_kind
from dsf.systems.composite import Operator
from dsf.systems.system import System
from dsf.systems.transition import DiagonalPlusLowRank

Selection = slice | int
MOST_UNIT_WORK = 2**23
"""Maximum number of products of a state with a decay in a map that is a response to units."""


@overload
def attention_map(
    system: Operator,
    rows: Selection | None = None,
    *,
    out: Shaped[Tensor, "*batch rows columns"] | None = None,
    enclosed: Literal[False] = False,
) -> Shaped[Tensor, "*batch rows columns"]: ...


@overload
def attention_map(
    system: Operator, rows: Selection | None = None, *, enclosed: Literal[True]
) -> Enclosure: ...


def attention_map(
    system: Operator,
    rows: Selection | None = None,
    *,
    out: Shaped[Tensor, "*batch rows columns"] | None = None,
    enclosed: bool = False,
) -> Shaped[Tensor, "*batch rows columns"] | Enclosure:
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
        of_kind("attention_map", "out", out, Tensor, "a torch tensor, such as an earlier map")
        _fits(out, shape if stride == 1 else None, system)
        _written(system, first, last, WholeMap(out.detach(), clean=False), loops)
        return out
    check_room("attention_map", shape, system.dtype, system.device)
    if loops is not None:
        zeros = torch.zeros(shape, dtype=system.dtype, device=system.device)
        weights = _written(system, first, last, WholeMap(zeros, clean=True), loops)
    elif last - first == system.steps and (whole := _by_units(system)) is not None:
        weights = whole
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


def _by_units(system: Operator) -> Tensor | None:
    """The whole map of a small delta rule, as the response to units; None for other systems.

    The compiled loop takes as many operations as the windows, without their calls of torch: at 128
    tokens of 16 states 1.9 against 3.3 ms, and as long as them at ``MOST_UNIT_WORK``.
    """
    if not isinstance(system, System) or not isinstance(system.A, DiagonalPlusLowRank):
        return None
    work = system.batch.numel() * system.steps**2 * system.state_size
    if work > MOST_UNIT_WORK or system.runs_backward:
        return None
    units = torch.eye(system.steps, dtype=system.dtype, device=system.device).unsqueeze(-2)
    units = units.expand(*system.batch, *units.shape)
    answer = compiled(replace(system, initial=None), units)
    return None if answer is None else answer[0].squeeze(-2)


def _written(
    system: Operator, first: int, last: int, output: WholeMap, loops: RowLoops | None
) -> Tensor:
    if loops is not None and output.matrix.is_contiguous():  # they need little memory for a row
        windows = loops([first, last], output)
    else:
        windows = (rows.weights for rows in blocks_between(system, first, last, output=output))
    filled = 0
    for weights in windows:
        output.settle(filled, weights)
        filled += weights.shape[-2]
    return output.matrix


def _fits(out: Tensor, shape: tuple[int, ...] | None, system: Operator) -> None:
    if shape is None:
        raise ValueError(
            "attention_map: 'out' takes consecutive rows, but the given range skips some. Leave "
            "out 'out', or select rows afterwards."
        )
    real = getattr(system, "takes_real_part", False)
    dtype = system.dtype.to_real() if real else system.dtype
    expected, got = (shape, dtype, system.device), (tuple(out.shape), out.dtype, out.device)
    if expected != got:
        raise ShapeError(
            f"attention_map: 'out' must have the shape {expected[0]}, the type {expected[1]} and "
            f"be on {expected[2]}, but it has {got[0]}, {got[1]} and is on {got[2]}. Make it with "
            f"torch.empty({expected[0]}, dtype={expected[1]}, device={str(expected[2])!r})."
        )


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
