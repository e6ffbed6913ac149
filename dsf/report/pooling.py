"""Maps made small enough for a screen: pooled by magnitude with the sign kept.

A single strong link stays visible in every view, however small.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

Numbers = Float[np.ndarray, "maps rows columns"]
Pooled = Float[np.ndarray, "maps down across"]


def edges(size: int, bins: int) -> Int[np.ndarray, " bins"]:
    """Where each of ``bins`` nearly equal runs of ``size`` cells starts; bins is at most size."""
    return np.arange(bins) * size // bins


def stronger(
    one: Float[np.ndarray, "*size"], other: Float[np.ndarray, "*size"]
) -> Float[np.ndarray, "*size"]:
    """Of two numbers the one of larger magnitude; what is not a number wins."""
    return np.where(np.isnan(one) | (np.abs(other) <= np.abs(one)), one, other)


def pool(weights: Numbers, starts: Int[np.ndarray, " bins"], *, axis: int) -> Pooled:
    """The strongest number of every run along ``axis``."""
    if len(starts) == weights.shape[axis]:
        return weights
    highest = np.maximum.reduceat(weights, starts, axis=axis)
    return stronger(highest, np.minimum.reduceat(weights, starts, axis=axis))


class View:
    """A map of ``written x read`` tokens in at most ``side x side`` cells, filled block by block.

    Attributes:
        weights: the strongest weight of every cell.
        masked: whether no weight of the cell can be other than zero.
    """

    def __init__(self, maps: int, written: int, read: int, side: int) -> None:
        self.rows = edges(written, min(side, written))
        self.columns = edges(read, min(side, read))
        self.weights = np.zeros((maps, len(self.rows), len(self.columns)))
        self.masked = np.ones((maps, len(self.rows), len(self.columns)), dtype=bool)

    def add(
        self,
        weights: Numbers,
        masked: Bool[np.ndarray, "maps rows columns"],
        written: Int[np.ndarray, " rows"],
        read: Int[np.ndarray, " columns"],
    ) -> None:
        """Take in some rows of the maps; several rows or columns may belong to one token."""
        cells = np.searchsorted(self.rows, written, side="right") - 1
        first = np.flatnonzero(np.diff(cells, prepend=-1))
        columns = np.searchsorted(read, self.columns)
        strongest = pool(pool(weights, columns, axis=2), first, axis=1)
        hidden = np.logical_and.reduceat(masked, columns, axis=2)
        hidden = np.logical_and.reduceat(hidden, first, axis=1)
        into = cells[first]
        self.weights[:, into] = stronger(self.weights[:, into], strongest)
        self.masked[:, into] &= hidden
