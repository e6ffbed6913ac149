"""Pooled maps, largest weights and sums of one layer, in one pass over blocks of rows.

``View`` pools the maps, ``Strongest`` keeps the largest weights of a map, ``_Sums`` adds rows and
columns. ``views`` runs all three over the blocks and returns one ``MapView`` for each map.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dsf.composite import ExplicitMap, Operator, SystemSum
from dsf.evaluate import Rows, row_blocks
from dsf.ingredients.softmax_rows import SoftmaxRows
from dsf.report.selection import Selection

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

    def add(
        self,
        weights: Numbers,
        masked: Bool[np.ndarray, "maps rows columns"],
        written: Int[np.ndarray, " rows"],
        read: Int[np.ndarray, " columns"],
    ) -> None:
        """Add some rows of the maps; several rows or columns may belong to one token."""
        cells = np.searchsorted(self.rows, written, side="right") - 1
        first = np.flatnonzero(np.diff(cells, prepend=-1))
        columns = np.searchsorted(read, self.columns)
        if masked.strides[0] == 0:  # one mask for all maps
            masked = masked[:1]
        strongest = pool(pool(weights, first, axis=1), columns, axis=2)
        hidden = reduced_runs(np.logical_and, masked, first, axis=1)
        hidden = reduced_runs(np.logical_and, hidden, columns, axis=2)
        into = cells[first]
        self.weights[:, into] = stronger(self.weights[:, into], strongest)
        self.masked[:, into] &= hidden


def masked(operator: Operator, rows: Rows) -> Bool[np.ndarray, "maps rows columns"]:
    """Weights that are zero whatever the coefficients: of later keys, or hidden by a mask."""
    lag = rows.lag
    hidden = torch.zeros_like(lag, dtype=torch.bool)
    if isinstance(operator, SystemSum):
        ways = {part.runs_backward for part in operator}
        if len(ways) == 1:
            hidden = _beyond(lag, backward=ways.pop())
    elif not isinstance(operator, ExplicitMap):
        hidden = _beyond(lag, backward=operator.runs_backward)
    source = operator.rows if isinstance(operator, ExplicitMap) else getattr(operator, "C", None)
    if isinstance(source, SoftmaxRows):
        if source.causal:
            hidden = hidden | _beyond(lag, backward=False)
        if source.bias is not None:
            bias = source.bias[..., rows.written[0] : rows.written[-1] + 1, :]
            hidden = hidden | (bias == -torch.inf)
    maps = rows.weights.shape[:-2].numel()
    return hidden.expand(rows.weights.shape).reshape(maps, *lag.shape).numpy(force=True)


def _beyond(lag: Tensor, *, backward: bool) -> Tensor:
    return lag > 0 if backward else lag < 0


KEPT = 12


@dataclass(frozen=True)
class Link:
    """One weight, of the query at token ``written`` on the key at token ``read``."""

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
        """Add some rows."""
        size = np.abs(weights)
        floor = abs(self._links[-1].weight) if len(self._links) == KEPT else 0.0
        places = np.flatnonzero(size > floor)  # NaN is not
        places = places[np.isfinite(size.ravel()[places])]
        if not len(places):
            return
        if len(places) > KEPT:
            places = places[np.argpartition(size.ravel()[places], -KEPT)[-KEPT:]]
        rows, columns = np.unravel_index(places, weights.shape)
        found = [
            Link(int(written[row]), int(read[column]), float(weights[row, column]))
            for row, column in zip(rows, columns, strict=True)
        ]
        self._links = sorted(self._links + found, key=_strength)[:KEPT]

    def links(self) -> list[Link]:
        """The largest weights, the largest first."""
        return list(self._links)


def _strength(link: Link) -> tuple[float, int, int]:
    return -abs(link.weight), link.written, link.read


BLOCK_BYTES = 32 * 2**20
"""The largest number of bytes in one block of rows."""

Progress = Callable[[float], None]
"""A function that is called with the finished share, from 0 to 1."""


def ignored(_share: float) -> None:
    """A ``Progress`` that does nothing."""


BRIGHT = 0.98
FAINTEST = 1 / 16


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
    def largest_apart(self) -> float:
        """The largest finite magnitude of the cells beside the diagonal; of all, if these are 0."""
        return float(np.nanmax(self._apart(), initial=0.0)) or self.scale

    @property
    def bright(self) -> float:
        """The weight from which on a colour is full, so that a few cells do not hide the rest.

        Of the cells that are not masked, 98 in 100 lie below it. The diagonal and the first key,
        which often take most of the weight, do not count. It is at least a sixteenth of the largest
        of those cells, so that noise stays pale beside a few strong weights.
        """
        inner = self._apart()
        inner[:, :1] = np.nan
        seen = inner[np.isfinite(inner) & ~self.masked]
        if not seen.any():
            return self.scale
        return min(max(float(np.quantile(seen, BRIGHT)), float(seen.max()) * FAINTEST), self.scale)

    def _apart(self) -> Float[np.ndarray, "rows columns"]:
        """Magnitudes with NaN on the diagonal, where queries and keys are the same tokens."""
        size = np.where(np.isfinite(self.weights), np.abs(self.weights), np.nan)
        if self.row_sums.size == self.column_sums.size:
            np.fill_diagonal(size, np.nan)
        return size


@dataclass
class _Sums:
    """Running sums over the rows of all maps of a layer."""

    maps: int
    written: int
    read: int
    row_sums: Float[np.ndarray, "maps written"] = field(init=False)
    column_sums: Float[np.ndarray, "maps read"] = field(init=False)
    filled: Bool[np.ndarray, "maps written"] = field(init=False)
    signed: Bool[np.ndarray, " maps"] = field(init=False)
    nans: np.ndarray = field(init=False)
    infinities: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.row_sums = np.zeros((self.maps, self.written))
        self.column_sums = np.zeros((self.maps, self.read))
        self.filled = np.zeros((self.maps, self.written), dtype=bool)
        self.signed = np.zeros(self.maps, dtype=bool)
        self.nans = np.zeros(self.maps, dtype=int)
        self.infinities = np.zeros(self.maps, dtype=int)

    def add(
        self, weights: Float[np.ndarray, "maps rows columns"], written: Int[np.ndarray, " rows"]
    ) -> None:
        """Add the rows of some tokens, each with all of its ports, which are adjacent."""
        tokens = slice(written[0], written[-1] + 1)
        with np.errstate(invalid="ignore"):
            self.row_sums[:, tokens] = _by_token(weights.sum(axis=2), len(np.unique(written)))
            self.column_sums += _by_token(weights.sum(axis=1), self.read)
        self.filled[:, tokens] = _by_token((weights != 0).any(axis=2), len(np.unique(written))) > 0
        for map in np.flatnonzero(~self.signed):
            self.signed[map] = (weights[map] < 0).any()
        if not np.isfinite(self.row_sums[:, tokens]).all():
            self.nans += np.isnan(weights).sum(axis=(1, 2))
            self.infinities += np.isinf(weights).sum(axis=(1, 2))


def _by_token(sums: np.ndarray, tokens: int) -> np.ndarray:
    return sums.reshape(len(sums), tokens, -1).sum(axis=2)


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
    """
    system, maps = drawn.system, len(drawn.labels)
    written = system.steps
    read = getattr(system, "read_steps", written)
    view, sums = View(maps, written, read, side), _Sums(maps, written, read)
    strongest = [Strongest() for _ in range(maps)]
    complex_ = False
    for block in row_blocks(system, size=_rows_at_once(maps, read * system.input_size)):
        complex_ = block.weights.is_complex()
        weights = _numbers(block).reshape(maps, *block.lag.shape)
        tokens = block.written.numpy(force=True), block.read.numpy(force=True)
        hidden = masked(system, block)
        view.add(weights, hidden, *tokens)
        for each in also:
            each(block)
        sums.add(weights, tokens[0])
        for links, map in zip(strongest, weights, strict=True):
            links.add(map, *tokens)
        progress((int(tokens[0][-1]) + 1) / written)
    return [
        MapView(
            label=drawn.labels[k],
            sample=drawn.samples[k],
            weights=view.weights[k],
            masked=view.masked[k],
            strongest=strongest[k].links(),
            column_sums=sums.column_sums[k],
            row_sums=sums.row_sums[k],
            empty_rows=np.flatnonzero(~sums.filled[k]).tolist(),
            nans=int(sums.nans[k]),
            infinities=int(sums.infinities[k]),
            complex_=complex_,
            signed=bool(sums.signed[k]),
        )
        for k in range(maps)
    ]


def _numbers(block: Rows) -> np.ndarray:
    weights = block.weights
    return (weights.abs() if weights.is_complex() else weights).double().numpy(force=True)


def _rows_at_once(maps: int, columns: int) -> int:
    return int(np.clip(BLOCK_BYTES // (8 * maps * columns), 1, 64))
