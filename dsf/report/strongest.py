"""The largest weights of a map, exactly, and which tokens they join."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

KEPT = 12


@dataclass(frozen=True)
class Link:
    """One weight, of the query at token ``written`` on the key at token ``read``."""

    written: int
    read: int
    weight: float


class Strongest:
    """The largest finite weights of one map, by magnitude; of equal ones those of first tokens."""

    def __init__(self) -> None:
        self._links: list[Link] = []

    @property
    def floor(self) -> float:
        """The magnitude that a further weight must exceed."""
        return abs(self._links[-1].weight) if len(self._links) == KEPT else 0.0

    def add(
        self,
        weights: Float[np.ndarray, "rows columns"],
        written: Int[np.ndarray, " rows"],
        read: Int[np.ndarray, " columns"],
        *,
        least: float = 0.0,
    ) -> None:
        """Add some rows.

        Args:
            least: a magnitude that enough of the weights are known to reach.
        """
        size = np.abs(weights)
        places = np.flatnonzero((size > self.floor) & (size >= least))  # NaN is not
        places = places[np.isfinite(size.ravel()[places])]
        if not len(places):
            return
        if len(places) > KEPT:
            found = size.ravel()[places]
            enough = found >= np.partition(found, -KEPT)[-KEPT]  # of equal ones the first are kept
            places = places[enough][np.argsort(-found[enough], kind="stable")[:KEPT]]
        rows, columns = np.unravel_index(places, weights.shape)
        links = [
            Link(int(written[row]), int(read[column]), float(weights[row, column]))
            for row, column in zip(rows, columns, strict=True)
        ]
        self._links = sorted(self._links + links, key=_strength)[:KEPT]

    def links(self) -> list[Link]:
        """The largest weights, the largest first."""
        return list(self._links)


class StrongestOfEach:
    """The same of several maps, by compiled loops.

    Args:
        maps: how many there are.
    """

    def __init__(self, maps: int) -> None:
        self._sizes, self._kept = np.zeros((2, maps, KEPT))
        self._places = np.zeros((maps, KEPT, 2), dtype=int)

    def add(
        self,
        weights: Float[np.ndarray, "maps rows columns"],
        strongest: Float[np.ndarray, "maps down across"],
        cells: Int[np.ndarray, " rows"],
        written: Int[np.ndarray, " rows"],
        read: Int[np.ndarray, " columns"],
    ) -> None:
        """Add some rows; ``strongest`` has the largest weights in cells of the rows ``cells``."""
        from dsf.systems.kernels.picture_cells import keep_largest

        kept = (self._sizes, self._kept, self._places)
        keep_largest(np.ascontiguousarray(weights), strongest, cells, written, read, *kept)

    def links(self, map: int) -> list[Link]:
        """The largest weights of one of the maps, the largest first."""
        count = int((self._sizes[map] > 0).sum())
        found = zip(self._places[map].tolist(), self._kept[map].tolist(), strict=True)
        return [Link(row, column, weight) for (row, column), weight in list(found)[:count]]


def _strength(link: Link) -> tuple[float, int, int]:
    return -abs(link.weight), link.written, link.read
