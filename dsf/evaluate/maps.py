"""The attention map a system implies."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.composite import Operator
from dsf.evaluate.arguments import check_operator
from dsf.evaluate.compiled import compiles
from dsf.evaluate.memory_plan import check_room
from dsf.evaluate.output_buffers import WholeMap
from dsf.evaluate.rows import SIZE, blocks_between
from dsf.shapes import ShapeError
from dsf.system import System

Selection = slice | int


def attention_map(
    system: Operator,
    rows: Selection | None = None,
    *,
    out: Shaped[Tensor, "*batch rows columns"] | None = None,
) -> Shaped[Tensor, "*batch rows columns"]:
    """The matrix that ``system`` applies to its tokens: row i is written, column j is read.

    For i > j the entry is ``C_i A_i ... A_{j+1} B_j``, on the diagonal ``C_i B_i + D_i``. With
    several ports the rows run over (token, output) and the columns over (token, input). What the
    initial state adds is not part of the map.

    Args:
        system: a system, a sum of systems, or an explicit map.
        rows: the written tokens to return, a slice or one token; all by default.
        out: memory to write the map into and to return, from an earlier call for example: fresh
            memory takes much longer to fill. No gradient goes through it.

    Raises:
        ShapeError: if ``out`` has another shape, number type or device than the map.
        MapTooLarge: if the map would take more than half of the free memory.
        IndexError: if ``rows`` names a token outside the sequence, or none.
        TypeError: if ``system`` is something else altogether.

    Example:
        A state that halves and takes in the signal:

        >>> import dsf, torch
        >>> one = torch.ones(3, 1)
        >>> system = dsf.System.from_write_and_read(dsf.transition.Diagonal(one / 2), one, one)
        >>> dsf.attention_map(system)
        tensor([[1.0000, 0.0000, 0.0000],
                [0.5000, 1.0000, 0.0000],
                [0.2500, 0.5000, 1.0000]])
        >>> dsf.attention_map(system, rows=-1)
        tensor([[0.2500, 0.5000, 1.0000]])
    """
    check_operator("attention_map", system)
    first, last, stride = _span(rows, system.steps)
    outputs = system.output_size
    columns = getattr(system, "read_steps", system.steps) * system.input_size
    shape = (*system.batch, (last - first) * outputs, columns)
    if out is not None:
        _fits(out, shape if stride == 1 else None, system)
        _written(system, first, last, WholeMap(out.detach(), clean=False))
        return out
    check_room("attention_map", shape, system.dtype, system.device)
    weights = _joined(system, first, last, shape)
    if stride == 1:
        return weights
    return weights.unflatten(-2, (-1, outputs))[..., ::stride, :, :].flatten(-3, -2)


def _joined(system: Operator, first: int, last: int, shape: tuple[int, ...]) -> Tensor:
    """All blocks in fresh memory."""
    if isinstance(system, System) and compiles(system, last):
        like = torch.empty(0, dtype=system.dtype, device=system.device)
        return _written(system, first, last, WholeMap(like.new_zeros(shape), clean=True))
    return torch.cat([block.weights for block in blocks_between(system, first, last)], dim=-2)


def _written(system: Operator, first: int, last: int, place: WholeMap) -> Tensor:
    filled, size = 0, SIZE
    if isinstance(system, System) and compiles(system, last) and place.matrix.is_contiguous():
        size = last - first  # the loops go entry by entry and keep little of each
    for block in blocks_between(system, first, last, size=size, place=place):
        place.settle(filled, block.weights)
        filled += block.weights.shape[-2]
    return place.matrix


def _fits(out: Tensor, shape: tuple[int, ...] | None, system: Operator) -> None:
    if shape is None:
        raise ValueError(
            "attention_map: 'out' takes rows that follow each other, but the given range leaves "
            "some out. Leave out 'out', or pick rows afterwards."
        )
    real = getattr(system, "takes_real_part", False)
    dtype = system.dtype.to_real() if real else system.dtype
    wanted, came = (shape, dtype, system.device), (tuple(out.shape), out.dtype, out.device)
    if wanted != came:
        raise ShapeError(
            f"attention_map: 'out' must have the shape {wanted[0]}, the type {wanted[1]} and be on "
            f"{wanted[2]}, but it has {came[0]}, {came[1]} and is on {came[2]}. Make it with "
            f"torch.empty({wanted[0]}, dtype={wanted[1]}, device={str(wanted[2])!r})."
        )


def _span(rows: Selection | None, steps: int) -> tuple[int, int, int]:
    if rows is None:
        return 0, steps, 1
    if isinstance(rows, int):
        token = rows + steps if rows < 0 else rows
        if not 0 <= token < steps:
            raise IndexError(
                f"attention_map: row {rows} is outside the sequence of {steps} tokens."
            )
        return token, token + 1, 1
    first, last, stride = rows.indices(steps)
    if first >= last or stride < 1:
        raise IndexError(
            f"attention_map: rows {rows} select no token of {steps}; ask for a forward range."
        )
    return first, last, stride
