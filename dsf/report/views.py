"""The pictures of one layer, in one pass over blocks of its rows.

``View`` takes in the rows: pools them, adds them up and keeps the largest weights. ``views`` runs
it over the blocks of a layer and returns one ``MapView`` for each map.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int

from dsf.evaluate import Rows, row_blocks
from dsf.report.joined_rows import Mask, joined, joined_masks
from dsf.report.map_view import MapView
from dsf.report.pooling import Numbers, Pooled, edges, stronger
from dsf.report.selection import Selection
from dsf.report.strongest import KEPT, Link, Strongest, StrongestOfEach
from dsf.systems.composite import ExplicitMap, Operator, SystemSum
from dsf.systems.kernels import applies
from dsf.systems.softmax_rows import SoftmaxRows


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
    """Weights that are zero whatever the coefficients: of later keys, or hidden by a mask."""
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
