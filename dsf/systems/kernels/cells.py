"""Cells of pictures: masks joined, weights in codes of eight bits, and weights that set colours."""

from typing import no_type_check

import numpy as np

from dsf.systems.kernels.compiling import kernel


@kernel()
@no_type_check
def join_masks(
    masked: np.ndarray,
    firsts: np.ndarray,
    starts: np.ndarray,
    hidden: np.ndarray,
    reach: np.ndarray,
) -> None:
    """Where all entries of a cell are masked, and from which column on those of a row are.

    ``masked`` is ``map row column`` and ``hidden``, ``map down across``, is changed to false where
    an entry is not masked. ``firsts`` holds the first row of every cell and ``starts`` its first
    column. ``reach`` has one number for every row, of all maps.
    """
    maps, rows, columns = masked.shape
    reach[:] = 0
    for m in range(maps):
        for down in range(len(firsts)):
            end = firsts[down + 1] if down + 1 < len(firsts) else rows
            for i in range(firsts[down], end):
                end_of_row = columns
                while end_of_row > 0 and masked[m, i, end_of_row - 1]:
                    end_of_row -= 1
                reach[i] = max(reach[i], end_of_row)
                for across in range(len(starts)):
                    if starts[across] >= end_of_row:
                        break
                    last = starts[across + 1] if across + 1 < len(starts) else columns
                    for j in range(starts[across], min(last, end_of_row)):
                        if not masked[m, i, j]:
                            hidden[m, down, across] = False
                            break


@kernel()
@no_type_check
def code_cells(
    weights: np.ndarray,
    masked: np.ndarray,
    scale: float,
    zero: float,
    levels: float,
    mask: int,
    codes: np.ndarray,
) -> bool:
    """One byte for every finite weight by its square root, in single precision.

    The result tells whether all were finite. Products and sums are rounded one by one, as by
    operations on whole arrays: those of two single numbers are exact in double precision.
    """
    for k in range(len(weights)):
        share = np.float32(weights[k] / scale)
        if not abs(share) < np.inf:
            return False
        if masked[k] and share == 0.0:
            codes[k] = mask
            continue
        root = np.float32(np.copysign(np.sqrt(abs(share)), share))
        away = np.float32(np.float64(root) * levels)
        codes[k] = np.uint8(np.rint(np.float32(np.float64(away) + zero)))
    return True


@kernel()
@no_type_check
def magnitudes_apart(
    weights: np.ndarray, masked: np.ndarray, square: bool, seen: np.ndarray
) -> tuple[int, float]:
    """Finite magnitudes that set the colours of a map, and the largest away from the diagonal.

    Into ``seen`` go those that are not masked, on the diagonal where queries and keys are the same
    tokens, or on the first key. How many these are comes first.
    """
    rows, columns = weights.shape
    count, largest = 0, 0.0
    for i in range(rows):
        for j in range(columns):
            size = abs(weights[i, j])
            if (square and i == j) or not size < np.inf:
                continue
            largest = max(largest, size)
            if j > 0 and not masked[i, j]:
                seen[count] = size
                count += 1
    return count, largest
