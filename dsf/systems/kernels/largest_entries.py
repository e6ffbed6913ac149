"""The largest entries of maps, kept in order while blocks of rows go by."""

from typing import no_type_check

import numpy as np

from dsf.systems.kernels.compiling import kernel


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
