"""Rows of maps joined to cells and summed, each entry read once."""

from typing import no_type_check

import numpy as np

from dsf.systems.kernels.compiling import kernel
from dsf.systems.kernels.exponentials import chosen


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
