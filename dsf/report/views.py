"""What is drawn of one layer: pooled maps, their strongest links and sums, one pass over the rows.

Nothing here holds a whole map of every head: rows come in blocks, small enough for ``ROOM``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from dsf.evaluate import Rows, row_blocks
from dsf.report.pooling import View
from dsf.report.reach import masked
from dsf.report.selection import Selection
from dsf.report.strongest import Link, Strongest

ROOM = 32 * 2**20
"""Bytes that one block of rows may take."""

Progress = Callable[[float], None]
"""What is told the share that is done, from 0 to 1."""


def untold(_share: float) -> None:
    """Nobody is watching."""


@dataclass
class MapView:
    """One map as it is drawn.

    Attributes:
        label: which head or channel.
        sample: which sample its tokens belong to.
        weights, masked: the pooled map, ``rows columns``.
        strongest: the largest weights, exact.
        column_sums: what every read token hands out in all, ports added.
        row_sums: what every written token takes in all, ports added.
        empty_rows: the written tokens that take nothing at all.
        nans, infinities: how many weights are not finite.
        complex_: whether magnitudes of complex weights are shown.
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

    @property
    def scale(self) -> float:
        """The largest finite magnitude; 0 where there is none."""
        return abs(self.strongest[0].weight) if self.strongest else 0.0


@dataclass
class _Tally:
    """Running sums over the rows of all maps of a layer."""

    maps: int
    written: int
    read: int
    row_sums: Float[np.ndarray, "maps written"] = field(init=False)
    column_sums: Float[np.ndarray, "maps read"] = field(init=False)
    filled: Bool[np.ndarray, "maps written"] = field(init=False)
    nans: np.ndarray = field(init=False)
    infinities: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.row_sums = np.zeros((self.maps, self.written))
        self.column_sums = np.zeros((self.maps, self.read))
        self.filled = np.zeros((self.maps, self.written), dtype=bool)
        self.nans = np.zeros(self.maps, dtype=int)
        self.infinities = np.zeros(self.maps, dtype=int)

    def add(
        self, weights: Float[np.ndarray, "maps rows columns"], written: Int[np.ndarray, " rows"]
    ) -> None:
        """Take in the rows of some whole tokens; the ports of a token stand side by side."""
        tokens = slice(written[0], written[-1] + 1)
        with np.errstate(invalid="ignore"):
            self.row_sums[:, tokens] = _by_token(weights.sum(axis=2), len(np.unique(written)))
            self.column_sums += _by_token(weights.sum(axis=1), self.read)
        self.filled[:, tokens] = _by_token((weights != 0).any(axis=2), len(np.unique(written))) > 0
        self.nans += np.isnan(weights).sum(axis=(1, 2))
        self.infinities += np.isinf(weights).sum(axis=(1, 2))


def _by_token(sums: np.ndarray, tokens: int) -> np.ndarray:
    return sums.reshape(len(sums), tokens, -1).sum(axis=2)


def views(drawn: Selection, *, side: int, progress: Progress = untold) -> list[MapView]:
    """Every map of ``drawn`` in at most ``side x side`` cells.

    With several ports a cell shows the strongest link between its two tokens.
    """
    system, maps = drawn.system, len(drawn.labels)
    written = system.steps
    read = getattr(system, "read_steps", written)
    view, tally = View(maps, written, read, side), _Tally(maps, written, read)
    strongest = [Strongest() for _ in range(maps)]
    complex_ = False
    for block in row_blocks(system, size=_rows_at_once(maps, read * system.input_size)):
        complex_ = block.weights.is_complex()
        weights = _numbers(block).reshape(maps, *block.lag.shape)
        tokens = block.written.numpy(force=True), block.read.numpy(force=True)
        view.add(weights, masked(system, block), *tokens)
        tally.add(weights, tokens[0])
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
            column_sums=tally.column_sums[k],
            row_sums=tally.row_sums[k],
            empty_rows=np.flatnonzero(~tally.filled[k]).tolist(),
            nans=int(tally.nans[k]),
            infinities=int(tally.infinities[k]),
            complex_=complex_,
        )
        for k in range(maps)
    ]


def _numbers(block: Rows) -> np.ndarray:
    weights = block.weights
    return (weights.abs() if weights.is_complex() else weights).double().numpy(force=True)


def _rows_at_once(maps: int, columns: int) -> int:
    return int(np.clip(ROOM // (8 * maps * columns), 1, 64))
