"""One map as a page draws it: a pooled picture, its largest weights, and the sums around it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from dsf.report.map_bytes import AT_ONCE, NUMBER
from dsf.report.strongest import Link
from dsf.systems.kernels import applies

BRIGHT = 0.98
FAINTEST = 1 / 16
EVEN = 0.5
FEWEST = 10


class Brightness(NamedTuple):
    """How the weights of a map are coloured.

    Attributes:
        full: the weight from which on a colour is full.
        largest_apart: the largest finite magnitude of the cells beside the diagonal; that of all
            cells, if these are 0.
        uniform: between which magnitudes most cells lie, if these differ by less than a factor of
            two; else None.
    """

    full: float
    largest_apart: float
    uniform: tuple[float, float] | None


@dataclass
class MapView:
    """One map as it is drawn.

    Attributes:
        label: its head or channel.
        sample: the sample that its tokens belong to.
        weights, masked: the pooled map, ``rows columns``.
        strongest: the largest weights, exact.
        column_sums: the sum of all weights on every key, over all ports.
        row_sums: the sum of all weights of every query, over all ports.
        empty_rows: the queries whose weights are all zero.
        nans, infinities: how many weights are not finite.
        complex_: whether magnitudes of complex weights are shown.
        signed: whether any weight is negative.
    """

    label: str
    sample: int
    weights: Float[np.ndarray, "rows columns"]
    masked: Bool[np.ndarray, "rows columns"]
    strongest: list[Link]
    column_sums: Float[np.ndarray, " read"]
    row_sums: Float[np.ndarray, " written"]
    empty_rows: list[int]
    nans: int
    infinities: int
    complex_: bool
    signed: bool

    @property
    def scale(self) -> float:
        """The largest finite magnitude; 0 where there is none."""
        return abs(self.strongest[0].weight) if self.strongest else 0.0

    @property
    def bright(self) -> float:
        """The weight from which on a colour is full; see ``brightness``."""
        return self.brightness.full

    @property
    def brightness(self) -> Brightness:
        """From which weight on a colour is full, so that a few cells do not hide the rest.

        Of the cells that are not masked, 98 in 100 lie below it. The diagonal and the first key,
        which often take most of the weight, do not count. It is at least a sixteenth of the largest
        of those cells, so that noise stays pale beside a few strong weights. Where 98 in 100 also
        lie above half of it, the map is nearly uniform, and would be full of colour everywhere; it
        is then up to four times as large, so that the square root of a uniform map is a half.
        """
        seen, largest = self._apart()
        apart = largest or self.scale
        highest = float(seen.max(initial=0.0))
        if not highest:
            return Brightness(self.scale, apart, None)
        full = min(max(quantile(seen, BRIGHT), highest * FAINTEST), self.scale)
        if len(seen) < FEWEST or np.count_nonzero(seen < EVEN * full) > (1 - BRIGHT) * len(seen):
            return Brightness(full, apart, None)
        least = max(quantile(seen, 1 - BRIGHT), EVEN * full)
        return Brightness(full * (least / full / EVEN) ** 2, apart, (least, full))

    def _apart(self) -> tuple[Float[np.ndarray, " cells"], float]:
        """The magnitudes that decide what is bright, and the largest beside the diagonal."""
        square = self.row_sums.size == self.column_sums.size  # queries and keys are the same tokens
        if not applies(NUMBER, work=AT_ONCE * self.weights.size):
            return apart(self.weights, self.masked, square=square)
        from dsf.systems.kernels.picture_cells import magnitudes_apart

        seen = np.empty(self.weights.size)
        weights = np.ascontiguousarray(self.weights, dtype=float)
        count, largest = magnitudes_apart(weights, self.masked, square, seen)
        return seen[:count], largest


def apart(
    weights: Float[np.ndarray, "rows columns"],
    masked: Bool[np.ndarray, "rows columns"],
    *,
    square: bool,
) -> tuple[Float[np.ndarray, " cells"], float]:
    """The same by operations on whole arrays."""
    size = np.where(np.isfinite(weights), np.abs(weights), np.nan)
    if square:
        np.fill_diagonal(size, np.nan)
    largest = float(np.nanmax(size, initial=0.0))
    size[:, :1] = np.nan
    return size[np.isfinite(size) & ~masked], largest


def quantile(numbers: Float[np.ndarray, " cells"], share: float) -> float:
    """The number below which a share of some numbers lies, as by ``np.quantile``, in half the time.

    Between the two numbers next to that place it is interpolated.
    """
    place = (len(numbers) - 1) * share
    below = int(place)
    above = min(below + 1, len(numbers) - 1)
    low, high = np.partition(numbers, (below, above))[[below, above]].tolist()
    beyond = place - below
    step = high - low
    return low + step * beyond if 2 * beyond < 1 else high - step * (1 - beyond)


def without_sample(label: str, sample: int) -> str:
    """The label of a map among those of its sample.

    >>> without_sample("sample 1, head 3", 1)
    'head 3'
    """
    return label.removeprefix(f"sample {sample}, ")
