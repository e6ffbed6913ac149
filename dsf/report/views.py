"""The pictures of one layer's maps, in one pass over blocks of its rows.

``View`` takes in the rows: pools them, adds them up and keeps the largest weights exactly.
``views`` runs it over the blocks of a layer and returns one ``MapView`` for each map: the pooled
picture, its largest weights, and the sums around it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from dsf.evaluate import Rows, row_blocks
from dsf.report.map_bytes import AT_ONCE, NUMBER
from dsf.report.pooling import Mask, Numbers, Pooled, edges, joined, joined_masks, stronger
from dsf.report.selection import Selection
from dsf.systems.composite import ExplicitMap, Operator, SystemSum
from dsf.systems.kernels import applies
from dsf.systems.softmax_rows import SoftmaxRows

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


BRIGHT = 0.98
FAINTEST = 1 / 16
EVEN = 0.5
FEWEST = 10


class Brightness(NamedTuple):
    """How the weights of a map are coloured.

    Attributes:
        full: the weight from which colours are full.
        largest_apart: the largest finite magnitude of the cells off the diagonal; that of all
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
        """The weight from which colours are full, so that a few cells do not hide the rest.

        Of the cells that are not masked, 98 in 100 lie below it. The diagonal and the first key,
        which often take most of the weight, do not count. It is at least a sixteenth of the largest
        of those cells, so that noise stays pale next to a few strong weights. Where 98 in 100 also
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
        """The magnitudes that decide what is bright, and the largest off the diagonal."""
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
    """Return a quantile of some numbers, as ``np.quantile``, in half the time.

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


class View:
    """Maps of ``written`` queries and ``read`` keys, pooled to at most ``side x side`` cells.

    Attributes:
        weights: the strongest weight of every cell.
        masked: whether all weights of the cell are masked.
    """

    def __init__(self, maps: int, written: int, read: int, side: int) -> None:
        self.rows = edges(written, min(side, written))
        self.columns = edges(read, min(side, read))
        self.weights = np.zeros((maps, len(self.rows), len(self.columns)))
        self.masked = np.ones((maps, len(self.rows), len(self.columns)), dtype=bool)
        self._work = maps * written * read
        self._row_sums, self._column_sums = np.zeros((maps, written)), np.zeros((maps, read))
        self._filled = np.zeros((maps, written), dtype=bool)
        self._signed = np.zeros(maps, dtype=bool)
        self._nans, self._infinities = np.zeros((2, maps), dtype=int)
        self._compiled = applies(torch.from_numpy(self.weights), work=self._work)
        self._largest = StrongestOfEach(maps) if self._compiled else None
        self._strongest = [Strongest() for _ in range(maps)]

    def add(
        self,
        weights: Numbers,
        masked: Mask,
        written: Int[np.ndarray, " rows"],
        read: Int[np.ndarray, " columns"],
    ) -> None:
        """Add the rows of the next tokens; several rows or columns may belong to one token.

        Args:
            masked: where weights are zero, of every map or, if it has one entry, of all.
        """
        cells = np.searchsorted(self.rows, written, side="right") - 1
        firsts = np.flatnonzero(np.diff(cells, prepend=-1))
        starts, into = np.searchsorted(read, self.columns), slice(cells[0], cells[-1] + 1)
        hidden, reach = joined_masks(masked, firsts, starts, compiled=self._compiled)
        found = joined(weights, reach, firsts, starts, work=self._work)
        begun = self.weights[:, cells[0]].copy()  # by the last rows that were added
        self.weights[:, into] = found.strongest
        self.weights[:, cells[0]] = stronger(begun, found.strongest[:, 0])
        self.masked[:, into] &= hidden
        count = int(written[-1] - written[0]) + 1
        tokens = slice(written[0], written[0] + count)
        self._row_sums[:, tokens] = _by_token(found.row_sums, count)
        self._column_sums += _by_token(found.column_sums, self._column_sums.shape[1])
        self._filled[:, tokens] = _by_token(found.filled, count) > 0
        self._signed |= found.signed
        if not np.isfinite(found.row_sums).all():
            self._nans += np.isnan(weights).sum(axis=(1, 2))
            self._infinities += np.isinf(weights).sum(axis=(1, 2))
        if self._largest is not None:
            self._largest.add(weights, found.strongest, cells - cells[0], written, read)
            return
        self._keep_strongest(weights, np.abs(found.strongest), cells - cells[0], written, read)

    def _keep_strongest(
        self,
        weights: Numbers,
        strongest: Pooled,
        cells: Int[np.ndarray, " rows"],
        written: Int[np.ndarray, " rows"],
        read: Int[np.ndarray, " columns"],
    ) -> None:
        """Look for the largest weights in rows whose cells have one that is large enough."""
        for k, bounds in enumerate(strongest.max(axis=2)):
            links, map = self._strongest[k], weights[k]
            enough = bounds if len(bounds) >= KEPT else strongest[k]
            least = 0.0 if links.floor else _reached(enough)
            rows = (~(bounds <= links.floor) & ~(bounds < least))[cells]  # NaN is neither
            if rows.any():
                links.add(map[rows], written[rows], read, least=least)

    def _links(self, k: int) -> list[Link]:
        return self._strongest[k].links() if self._largest is None else self._largest.links(k)

    def maps(
        self, labels: Sequence[str], samples: Sequence[int], *, complex_: bool = False
    ) -> list[MapView]:
        """Every map, after all of its rows were added."""
        return [
            MapView(
                label=labels[k],
                sample=samples[k],
                weights=self.weights[k],
                masked=self.masked[k],
                strongest=self._links(k),
                column_sums=self._column_sums[k],
                row_sums=self._row_sums[k],
                empty_rows=np.flatnonzero(~self._filled[k]).tolist(),
                nans=int(self._nans[k]),
                infinities=int(self._infinities[k]),
                complex_=complex_,
                signed=bool(self._signed[k]),
            )
            for k in range(len(labels))
        ]


def _by_token(sums: np.ndarray, tokens: int) -> np.ndarray:
    return sums.reshape(len(sums), tokens, -1).sum(axis=2)


def _reached(largest: Float[np.ndarray, "*cells"]) -> float:
    """A magnitude that as many weights reach as are kept, by the largest of different cells."""
    finite = largest[np.isfinite(largest)]
    return float(np.partition(finite, -KEPT)[-KEPT]) if len(finite) >= KEPT else 0.0


def masked(operator: Operator, rows: Rows) -> Mask:
    """Return where weights are zero for all coefficients: later keys, or hidden by a mask."""
    token, read = rows.written[:, None], rows.read
    source = operator.rows if isinstance(operator, ExplicitMap) else getattr(operator, "C", None)
    hidden = torch.zeros(rows.weights.shape[-2:], dtype=torch.bool, device=read.device)
    for backward in _ways(operator, source):
        hidden = hidden | (read < token if backward else read > token)
    if isinstance(source, SoftmaxRows) and source.bias is not None:
        bias = source.bias[..., rows.written[0] : rows.written[-1] + 1, :]
        of_each = (hidden | (bias == -torch.inf)).expand(rows.weights.shape)
        return of_each.reshape(-1, *hidden.shape).numpy(force=True)
    return hidden[None].numpy(force=True)


def _ways(operator: Operator, source: object) -> set[bool]:
    """The directions in which nothing else is read: False forward in time, True backward."""
    found = set()
    if isinstance(operator, SystemSum):
        parts = {part.runs_backward for part in operator}
        found |= parts if len(parts) == 1 else set()
    elif not isinstance(operator, ExplicitMap):
        found.add(operator.runs_backward)
    if isinstance(source, SoftmaxRows) and source.causal:
        found.add(False)
    return found


BLOCK_BYTES = 32 * 2**20
"""The largest number of bytes in one block of rows."""

USUAL, LEAST = 128, 2**17
"""Rows of a block, and weights in blocks of more rows than that, which are of few short maps."""

Progress = Callable[[float], None]
"""A function that is called with the finished share, from 0 to 1."""


def ignored(_share: float) -> None:
    """A ``Progress`` that does nothing."""


def views(
    drawn: Selection,
    *,
    side: int,
    progress: Progress = ignored,
    also: Sequence[Callable[[Rows], None]] = (),
) -> list[MapView]:
    """Every map of ``drawn``, pooled to at most ``side x side`` cells.

    With several ports a cell shows the largest weight between its two tokens.

    Args:
        also: functions that are called with every block of rows, which is formed once for all.
            The next block may overwrite it.
    """
    system, maps = drawn.system, len(drawn.labels)
    written = system.steps
    read = getattr(system, "read_steps", written)
    view, complex_ = View(maps, written, read, side), False
    size = _rows_at_once(maps, read * system.input_size)
    for block in row_blocks(system, size=size, overwrites=True):
        complex_ = block.weights.is_complex()
        weights = _numbers(block).reshape(maps, len(block.written), len(block.read))
        tokens = block.written.numpy(force=True), block.read.numpy(force=True)
        view.add(weights, masked(system, block), *tokens)
        for each in also:
            each(block)
        progress((int(tokens[0][-1]) + 1) / written)
    return view.maps(drawn.labels, drawn.samples, complex_=complex_)


def _numbers(block: Rows) -> np.ndarray:
    weights = block.weights
    return (weights.abs() if weights.is_complex() else weights).double().numpy(force=True)


def _rows_at_once(maps: int, columns: int) -> int:
    usual = max(USUAL, LEAST // (maps * columns))
    return int(np.clip(BLOCK_BYTES // (8 * maps * columns), 1, usual))
