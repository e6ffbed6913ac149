"""Joins neighbouring rows and columns of maps: of each cell the weight of largest magnitude."""

import numpy as np
from jaxtyping import Float, Int

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
