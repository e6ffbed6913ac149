"""Cells of pictures: rows of maps pooled, summed and encoded, and the largest entries kept.

Every entry of a map is read once, while blocks of rows go by.
"""

from typing import no_type_check

import numpy as np

from dsf.systems.kernels.compiling import kernel
from dsf.systems.kernels.exponentials import chosen


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


@kernel(reorders=True)
@no_type_check
def join_rows(
    weights: np.ndarray,
    reach: np.ndarray,
    firsts: np.ndarray,
    starts: np.ndarray,
    strongest: np.ndarray,
    row_sums: np.ndarray,
    column_sums: np.ndarray,
    filled: np.ndarray,
    negative: np.ndarray,
) -> None:
    """The strongest weight of every cell, sums and counts of every row, and sums of columns.

    ``weights`` is ``map row column``, and zero from column ``reach[row]`` on. ``firsts`` holds the
    first row of every cell and ``starts`` its first column. ``strongest``, ``map down across``,
    has of each cell the weight of largest magnitude; ``filled`` and ``negative`` count weights
    other than zero and below it. ``column_sums`` is added to. Where a sum of a row is not finite,
    ``strongest`` may be wrong.
    """
    maps, rows, columns = weights.shape
    best = np.empty(columns)
    for m in range(maps):
        for cell in range(len(firsts)):
            last = firsts[cell + 1] if cell + 1 < len(firsts) else rows
            best[:] = 0.0
            for i in range(firsts[cell], last):
                row = weights[m, i, : reach[i]]
                total, some, below = _join(row, best, column_sums[m])
                row_sums[m, i], filled[m, i], negative[m, i] = total, some, below
            _join_runs(best, starts, strongest[m, cell])


@kernel(reorders=True, inlined=True)
@no_type_check
def _join(row, best, sums):
    """Sum of a row, how many weights are not zero and how many negative; ``best`` takes it in."""
    total, filled, negative = 0.0, 0, 0
    for j in range(len(row)):
        x = np.float64(row[j])
        best[j] = chosen(abs(x) > abs(best[j]), x, best[j])
        sums[j] += x
        total += x
        filled += chosen(x == 0.0, 0, 1)
        negative += chosen(x < 0.0, 1, 0)
    return total, filled, negative


@kernel(inlined=True)
@no_type_check
def _join_runs(best, starts, found):
    for k in range(len(starts)):
        end = starts[k + 1] if k + 1 < len(starts) else len(best)
        kept = best[starts[k]]
        for j in range(starts[k] + 1, end):
            kept = chosen(abs(best[j]) > abs(kept), best[j], kept)
        found[k] = kept


@kernel()
@no_type_check
def add_magnitudes(weights: np.ndarray, maps: np.ndarray, sums: np.ndarray) -> None:
    """Add the absolute weights of some maps of ``map row column`` to ``row column``."""
    for i in range(weights.shape[1]):
        into = sums[i]
        for m in maps:
            row = weights[m, i]
            for j in range(len(into)):
                into[j] += abs(row[j])


@kernel()
@no_type_check
def keep_largest(
    weights: np.ndarray,
    strongest: np.ndarray,
    cells: np.ndarray,
    written: np.ndarray,
    read: np.ndarray,
    sizes: np.ndarray,
    kept: np.ndarray,
    places: np.ndarray,
) -> None:
    """Take finite entries other than zero of ``weights``, ``map row column``, into what is kept.

    ``sizes`` and ``kept``, ``map rank``, have magnitudes and weights from the largest on, and
    ``places``, ``map rank 2``, the tokens; magnitudes are zero where there are fewer. Of equal ones
    those of first tokens are kept. Row ``i`` is not looked at where no entry of ``strongest`` for
    its cell ``cells[i]``, ``map cell column``, exceeds the least that is kept.
    """
    maps, rows, columns = weights.shape
    last = sizes.shape[1] - 1
    for m in range(maps):
        seen, bound = -1, 0.0
        for i in range(rows):
            if cells[i] != seen:
                seen = cells[i]
                bound = _bound(strongest[m, seen])
            if bound <= sizes[m, last]:
                continue
            for j in range(columns):
                size = abs(weights[m, i, j])
                if size > sizes[m, last] and size < np.inf:
                    at = last
                    while at > 0 and _is_after(
                        sizes[m, at - 1], places[m, at - 1], size, written[i], read[j]
                    ):
                        sizes[m, at], kept[m, at] = sizes[m, at - 1], kept[m, at - 1]
                        places[m, at, 0] = places[m, at - 1, 0]
                        places[m, at, 1] = places[m, at - 1, 1]
                        at -= 1
                    sizes[m, at], kept[m, at] = size, weights[m, i, j]
                    places[m, at, 0], places[m, at, 1] = written[i], read[j]


@kernel(inlined=True)
@no_type_check
def _bound(cells):
    """The largest magnitude; infinite where one is not a number."""
    found = 0.0
    for j in range(len(cells)):
        size = abs(cells[j])
        if not size <= found:
            found = size if size == size else np.inf  # noqa: PLR0124  # nan differs from itself
    return found


@kernel(inlined=True)
@no_type_check
def _is_after(size, place, other, row, column):
    """Whether what is kept has to stand behind a further entry."""
    if size != other:
        return size < other
    return place[0] > row or (place[0] == row and place[1] > column)
