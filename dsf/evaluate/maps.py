"""The attention map a system implies."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.composite import Operator
from dsf.evaluate.border import is_operator
from dsf.evaluate.budget import check_room
from dsf.evaluate.rows import blocks_between

Selection = slice | int


def attention_map(
    system: Operator, rows: Selection | None = None
) -> Shaped[Tensor, "*batch rows columns"]:
    """The matrix that ``system`` applies to its tokens: row i is written, column j is read.

    For i > j the entry is ``C_i A_i ... A_{j+1} B_j``, on the diagonal ``C_i B_i + D_i``. With
    several ports the rows run over (token, output) and the columns over (token, input). What the
    initial state adds is not part of the map.

    Args:
        system: a system, a sum of systems, or an explicit map.
        rows: the written tokens to return, a slice or one token; all by default.

    Raises:
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
    is_operator("attention_map", system)
    first, last, stride = _span(rows, system.steps)
    outputs = system.output_size
    columns = getattr(system, "read_steps", system.steps) * system.input_size
    check_room(
        "attention_map",
        (*system.batch, (last - first) * outputs, columns),
        system.dtype,
        system.device,
    )
    weights = torch.cat([block.weights for block in blocks_between(system, first, last)], dim=-2)
    if stride == 1:
        return weights
    return weights.unflatten(-2, (-1, outputs))[..., ::stride, :, :].flatten(-3, -2)


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
