"""The strongest links of a map, kept exactly while its rows go by."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

KEPT = 12


@dataclass(frozen=True)
class Link:
    """One weight: what token ``written`` takes from token ``read``."""

    written: int
    read: int
    weight: float


class Strongest:
    """The largest finite weights of one map, by magnitude."""

    def __init__(self) -> None:
        self._links: list[Link] = []

    def add(
        self,
        weights: Float[np.ndarray, "rows columns"],
        written: Int[np.ndarray, " rows"],
        read: Int[np.ndarray, " columns"],
    ) -> None:
        """Take in some rows."""
        size = np.where(np.isfinite(weights), np.abs(weights), 0)
        floor = abs(self._links[-1].weight) if len(self._links) == KEPT else 0.0
        places = np.flatnonzero(size > floor)
        if len(places) > KEPT:
            places = places[np.argpartition(size.ravel()[places], -KEPT)[-KEPT:]]
        rows, columns = np.unravel_index(places, weights.shape)
        found = [
            Link(int(written[row]), int(read[column]), float(weights[row, column]))
            for row, column in zip(rows, columns, strict=True)
        ]
        self._links = sorted(self._links + found, key=_strength)[:KEPT]

    def links(self) -> list[Link]:
        """Strongest first."""
        return list(self._links)


def _strength(link: Link) -> tuple[float, int, int]:
    return -abs(link.weight), link.written, link.read
