"""Joins neighbouring rows and columns of maps: of each cell the weight of largest magnitude.

``joined`` also sums rows and columns in the same pass over the weights, by compiled loops where
these are worth it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from dsf.systems.kernels import applies

Numbers = Float[np.ndarray, "maps rows columns"]
Pooled = Float[np.ndarray, "maps down across"]


def edges(size: int, bins: int) -> Int[np.ndarray, " bins"]:
    """The starts of ``bins`` nearly equal runs of ``size`` cells, for ``bins`` up to ``size``."""
    return np.arange(bins) * size // bins


def stronger(
    one: Float[np.ndarray, "*size"], other: Float[np.ndarray, "*size"]
) -> Float[np.ndarray, "*size"]:
    """Of two numbers the one of larger magnitude; NaN takes precedence."""
    return np.where(np.isnan(one) | (np.abs(other) <= np.abs(one)), one, other)


def pool(weights: Numbers, starts: Int[np.ndarray, " bins"], *, axis: int) -> Pooled:
    """The strongest number of every run along ``axis``."""
    if len(starts) == weights.shape[axis]:
        return weights
    highest = reduced_runs(np.maximum, weights, starts, axis=axis)
    if not (weights < 0).any():
        return highest
    return stronger(highest, reduced_runs(np.minimum, weights, starts, axis=axis))


SHORT = 16


def reduced_runs(
    join: np.ufunc, numbers: np.ndarray, starts: Int[np.ndarray, " bins"], *, axis: int
) -> np.ndarray:
    """Each run of numbers along ``axis`` joined to one.

    Runs of rows are joined one by one, along whole rows. Short runs of columns are joined by their
    first numbers, their second ones and so on, the last again where a run has fewer. Both are
    several times faster than ``reduceat``.
    """
    if len(starts) == numbers.shape[axis]:
        return numbers
    ends = np.append(starts[1:], numbers.shape[axis])
    along = np.moveaxis(numbers, axis, -1)
    if axis % numbers.ndim != numbers.ndim - 1:
        runs = [join.reduce(along[..., a:b], axis=-1) for a, b in zip(starts, ends, strict=True)]
        return np.stack(runs, axis=axis)
    longest = int((ends - starts).max())
    if longest > SHORT:
        return join.reduceat(numbers, starts, axis=axis)
    found = numbers[..., starts]
    for k in range(1, longest):
        found = join(found, numbers[..., np.minimum(starts + k, ends - 1)])
    return found


Mask = Bool[np.ndarray, "masks rows columns"]


@dataclass(frozen=True)
class JoinedRows:
    """What a picture needs of some rows of maps.

    Attributes:
        strongest: the strongest weight of every cell.
        row_sums, column_sums: over the columns, and over these rows.
        filled: whether any weight of a row is not zero.
        signed: whether any weight of a map is negative.
    """

    strongest: Pooled
    row_sums: Float[np.ndarray, "maps rows"]
    column_sums: Float[np.ndarray, "maps columns"]
    filled: Bool[np.ndarray, "maps rows"]
    signed: Bool[np.ndarray, " maps"]


def joined(
    weights: Numbers,
    reach: Int[np.ndarray, " rows"],
    firsts: Int[np.ndarray, " down"],
    starts: Int[np.ndarray, " across"],
    *,
    work: int,
) -> JoinedRows:
    """Rows joined by compiled loops where ``work`` weights are worth it and all are finite.

    Args:
        reach: from this column on a row is known to be zero.
        firsts: the first row of every cell.
        starts: its first column.
    """
    if applies(torch.from_numpy(weights), work=work):
        found = _compiled(weights, reach, firsts, starts)
        if np.isfinite(found.row_sums).all():
            return found
    return plain(weights, firsts, starts)


def plain(
    weights: Numbers, firsts: Int[np.ndarray, " down"], starts: Int[np.ndarray, " across"]
) -> JoinedRows:
    """Rows joined by operations on whole arrays."""
    with np.errstate(invalid="ignore"):
        return JoinedRows(
            strongest=pool(pool(weights, firsts, axis=1), starts, axis=2),
            row_sums=weights.sum(axis=2),
            column_sums=weights.sum(axis=1),
            filled=(weights != 0).any(axis=2),
            signed=np.logical_or.reduce(weights < 0, axis=(1, 2)),
        )


def _compiled(
    weights: Numbers,
    reach: Int[np.ndarray, " rows"],
    firsts: Int[np.ndarray, " down"],
    starts: Int[np.ndarray, " across"],
) -> JoinedRows:
    from dsf.systems.kernels.picture_cells import join_rows

    maps, rows, columns = weights.shape
    strongest = np.empty((maps, len(firsts), len(starts)))
    row_sums, column_sums = np.empty((maps, rows)), np.zeros((maps, columns))
    filled, negative = np.empty((2, maps, rows), dtype=int)
    counted = (row_sums, column_sums, filled, negative)
    join_rows(np.ascontiguousarray(weights), reach, firsts, starts, strongest, *counted)
    return JoinedRows(strongest, row_sums, column_sums, filled > 0, negative.sum(axis=1) > 0)


def joined_masks(
    masked: Mask,
    firsts: Int[np.ndarray, " down"],
    starts: Int[np.ndarray, " across"],
    *,
    compiled: bool,
) -> tuple[Bool[np.ndarray, "masks down across"], Int[np.ndarray, " rows"]]:
    """Where whole cells are masked, and from which column on a row is masked in all maps."""
    if compiled:
        from dsf.systems.kernels.picture_cells import join_masks

        hidden = np.ones((len(masked), len(firsts), len(starts)), dtype=bool)
        reach = np.empty(masked.shape[1], dtype=int)
        join_masks(masked, firsts, starts, hidden, reach)
        return hidden, reach
    seen = ~np.logical_and.reduce(masked, axis=0)
    columns = seen.shape[1] - seen[:, ::-1].argmax(axis=1)
    rows = reduced_runs(np.logical_and, masked, firsts, axis=1)
    return reduced_runs(np.logical_and, rows, starts, axis=2), np.where(
        seen.any(axis=1), columns, 0
    )
