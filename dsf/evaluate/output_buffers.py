"""Where rows of a map are written: fresh memory, one buffer used again, or a whole map."""

from abc import ABC, abstractmethod

from jaxtyping import Shaped
from torch import Tensor


class RowBuffer(ABC):
    """Rows to write into, asked for from the first row of a causal map to the last."""

    @abstractmethod
    def take(self, like: Tensor, shape: tuple[int, ...], *, first: int) -> tuple[Tensor, int]:
        """A contiguous buffer with the batch and columns of ``shape``, and the row to start at.

        There the columns from ``first`` on are zero; what stands before them is to be written.
        """


class FreshRows(RowBuffer):
    """New memory for every block, which may be kept."""

    def take(self, like: Tensor, shape: tuple[int, ...], *, first: int) -> tuple[Tensor, int]:
        buffer = like.new_empty(shape)
        buffer[..., first:].zero_()
        return buffer, 0


class ReusedRows(RowBuffer):
    """One buffer that every block overwrites: fresh pages cost ten times what writing does."""

    def __init__(self) -> None:
        self.buffer: Tensor | None = None

    def take(self, like: Tensor, shape: tuple[int, ...], *, first: int) -> tuple[Tensor, int]:
        held = self.buffer
        if held is None or held.dtype != like.dtype or held.shape[-2] < shape[-2]:
            held = self.buffer = like.new_empty(shape)
        held[..., first:].zero_()
        return held, 0


class WholeMap(RowBuffer):
    """The rows of one matrix, one block after the other.

    Args:
        matrix: any memory.
        clean: whether it holds zeros.
    """

    def __init__(self, matrix: Shaped[Tensor, "*batch rows columns"], *, clean: bool) -> None:
        self.matrix, self.clean, self.filled = matrix, clean, 0

    def take(self, like: Tensor, shape: tuple[int, ...], *, first: int) -> tuple[Tensor, int]:
        """The matrix itself where it is of the kind; what is written elsewhere is copied later."""
        top, self.filled = self.filled, self.filled + shape[-2]
        if self.matrix.dtype != like.dtype or not self.matrix.is_contiguous():
            return FreshRows().take(like, shape, first=first)
        if not self.clean:
            self.matrix[..., top : self.filled, first:].zero_()
        return self.matrix, top

    def settle(self, top: int, weights: Shaped[Tensor, "*batch rows columns"]) -> None:
        """Copy ``weights`` to the rows from ``top`` on, unless that is where they are."""
        rows = self.matrix[..., top : top + weights.shape[-2], :]
        if rows.data_ptr() != weights.data_ptr():
            rows.copy_(weights)


def is_clean(place: RowBuffer, buffer: Tensor) -> bool:
    """Whether a buffer that ``place`` gave holds zeros wherever nobody wrote."""
    return isinstance(place, WholeMap) and place.clean and buffer is place.matrix


def spans_by_tile(start: int, stop: int, tile: int) -> list[tuple[int, int, int]]:
    """``start`` to ``stop - 1`` cut at multiples of ``tile``: which tile, first and last row."""
    numbers = range(start // tile, -(-stop // tile))
    return [(n, max(start, n * tile), min(stop, (n + 1) * tile)) for n in numbers]


def flat(buffer: Shaped[Tensor, "*batch rows columns"]) -> Shaped[Tensor, "entry rows columns"]:
    """A contiguous buffer with one axis for its batch."""
    return buffer.view(-1, *buffer.shape[-2:]) if buffer.ndim > 2 else buffer.unsqueeze(0)
