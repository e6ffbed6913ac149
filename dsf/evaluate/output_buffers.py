"""Output memory for rows of a map: new for each block, one reused buffer, or the whole map."""

from jaxtyping import Shaped
from torch import Tensor


class RowBuffer:
    """Memory for blocks of rows of a causal map, from first row to last: new for every block."""

    def take(self, like: Tensor, shape: tuple[int, ...], *, first: int) -> tuple[Tensor, int]:
        """A contiguous buffer with the batch and columns of ``shape``, and its first free row.

        In the rows of the block, the columns from ``first`` on are zero; the caller has to write
        those before.
        """
        buffer = like.new_empty(shape)
        buffer[..., first:].zero_()
        return buffer, 0


class ReusedRows(RowBuffer):
    """One buffer that every block overwrites: new memory pages take ten times as long to write."""

    def __init__(self) -> None:
        self.buffer: Tensor | None = None

    def take(self, like: Tensor, shape: tuple[int, ...], *, first: int) -> tuple[Tensor, int]:
        buffer = self.buffer
        if buffer is None or buffer.dtype != like.dtype or buffer.shape[-2] < shape[-2]:
            buffer = self.buffer = like.new_empty(shape)
        buffer[..., first:].zero_()
        return buffer, 0


class WholeMap(RowBuffer):
    """The rows of one matrix, one block after the other."""

    def __init__(self, matrix: Shaped[Tensor, "*batch rows columns"], *, clean: bool) -> None:
        self.matrix, self.clean, self.filled = matrix, clean, 0

    def take(self, like: Tensor, shape: tuple[int, ...], *, first: int) -> tuple[Tensor, int]:
        """The matrix itself where type and strides fit, else new memory: ``settle`` copies it."""
        top, self.filled = self.filled, self.filled + shape[-2]
        if self.matrix.dtype != like.dtype or not self.matrix.is_contiguous():
            return super().take(like, shape, first=first)
        if not self.clean:
            self.matrix[..., top : self.filled, first:].zero_()
        return self.matrix, top

    def settle(self, top: int, weights: Shaped[Tensor, "*batch rows columns"]) -> None:
        rows = self.matrix[..., top : top + weights.shape[-2], :]
        if rows.data_ptr() != weights.data_ptr():
            rows.copy_(weights)


def is_clean(output: RowBuffer, buffer: Tensor) -> bool:
    """Whether a buffer from ``output`` is zero wherever it has not been written."""
    return isinstance(output, WholeMap) and output.clean and buffer is output.matrix


def spans_by_tile(start: int, stop: int, tile: int) -> list[tuple[int, int, int]]:
    """``start`` to ``stop - 1`` cut at multiples of ``tile``: index of the tile, start and stop."""
    numbers = range(start // tile, -(-stop // tile))
    return [(n, max(start, n * tile), min(stop, (n + 1) * tile)) for n in numbers]


def flat(buffer: Shaped[Tensor, "*batch rows columns"]) -> Shaped[Tensor, "entry rows columns"]:
    return buffer.view(-1, *buffer.shape[-2:]) if buffer.ndim > 2 else buffer.unsqueeze(0)
