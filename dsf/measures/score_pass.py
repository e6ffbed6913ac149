"""Row reductions of exponentials of scores, such as softmax attention, by compiled loops."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise, product

import numpy as np
import torch

from dsf.evaluate.cache import whole_rows
from dsf.measures.row_reductions import (
    BY_LAG,
    KINDS,
    Reduced,
    RowReduction,
    indices_of_sums,
)
from dsf.runtime.threads import in_parallel, shares
from dsf.systems.composite import Operator
from dsf.systems.kernels import applies
from dsf.systems.softmax_rows import ExponentialRows
from dsf.systems.transition.storage import tensors_of

ROWS, PANEL_ENTRIES = 64, 1 << 21  # limits of a panel, so that it fits the cache
MAPS, MAPS_ENTRIES = 16, 1 << 19  # of a panel at most, whose scores are one product
SHARED = 1 << 17  # entries of a panel from which on several threads are faster than one


def scores_of(system: Operator) -> ExponentialRows | None:
    """The source of the scores of ``system`` where compiled loops apply; else None."""
    rows = whole_rows(system)
    if not isinstance(rows, ExponentialRows):
        return None
    parts = tensors_of(rows)
    real = not any(part.is_complex() for part in parts)
    return rows if real and applies(*parts, work=rows.shape.numel()) else None


class ScorePass:
    """Rows that are exponentials of scores: a few maps of the batch after the other, by panels."""

    def __init__(self, source: ExponentialRows, wanted: Sequence[RowReduction]) -> None:
        from dsf.systems.kernels.entry_sums import BLOCK

        self.source, self.indices = source, indices_of_sums(wanted)
        self.lagged = BY_LAG in wanted
        self.widths, self.tokens = (
            np.array([each.token for each in self.indices if each.name == name], dtype=int)
            for name in ("near", "on")
        )
        *self.batch, self.steps, _, columns = source.shape
        self.size = max(1, min(ROWS, PANEL_ENTRIES // max(columns, 1)))
        together = max(1, min(MAPS, MAPS_ENTRIES // max(self.size * columns, 1)))
        self.groups = groups(torch.Size(self.batch), most=together)
        self.rows = math.prod(self.batch) * self.steps
        shape = (math.prod(self.batch), self.steps)
        self.numbers = {each: source.query.new_zeros(shape) for each in self.indices}
        self.by_lag = np.zeros((shape[0], columns if self.lagged else 0))
        self.ahead = torch.arange(BLOCK, dtype=source.dtype).numpy()

    def blocks(self) -> Iterator[int]:
        for index, entries in self.groups:
            several = torch.Size([entries.stop - entries.start] if self.batch else [])
            some = self.source.picked(index, several)
            for start in range(0, self.steps, self.size):
                stop = min(self.steps, start + self.size)
                statistics = self._panel(some, start, stop, self.by_lag[entries])
                for each, numbers in self.numbers.items():
                    found = statistics[:, self.indices[each]]
                    numbers[entries, start:stop] = torch.from_numpy(found)
                yield entries.start * self.steps + (entries.stop - entries.start) * stop

    def _panel(
        self, some: ExponentialRows, start: int, stop: int, by_lag: np.ndarray
    ) -> np.ndarray:
        """All sums of some rows of a few maps, ``map kind row``; sums by lag go to ``by_lag``."""
        from dsf.systems.kernels.entry_sums import sum_exponentials

        scores, unread = some.logits(start, stop).contiguous(), some.unread()
        kinds = len(KINDS) - 1 + len(self.widths) + len(self.tokens)
        peaks = scores.amax(dim=-1).view(-1, stop - start).numpy()
        statistics = np.empty((len(peaks), kinds, stop - start))
        maps = scores.view(-1, *scores.shape[-2:]).numpy()
        sinks = np.full(len(maps), -np.inf) if unread is None else unread.flatten().double().numpy()

        def sum_some(part: slice) -> None:
            for k in range(part.start, part.stop):
                sum_exponentials(
                    maps[k],
                    peaks[k],
                    float(sinks[k]),
                    self.ahead,
                    start,
                    some.is_causal,
                    some.shape[-1],
                    self.widths,
                    self.tokens,
                    statistics[k],
                    by_lag[k],
                )

        in_parallel(sum_some, shares(len(maps)) if maps.size >= SHARED else [slice(0, len(maps))])
        energy = statistics[:, KINDS.index("norm")]
        np.sqrt(energy, out=energy)
        return statistics

    def reduced(self, error: float) -> Reduced:
        shape = (*self.batch, self.steps)
        found = {each: part.view(shape) for each, part in self.numbers.items()}
        if self.lagged:
            sums = torch.from_numpy(self.by_lag[:, ::-1].copy()).to(self.source.dtype)
            columns = sums.shape[-1]
            entries = (self.steps - torch.arange(columns)).clamp(min=0, max=columns)
            both = torch.stack([sums, entries.to(sums.dtype).expand_as(sums)])
            found[BY_LAG] = both.view(2, *self.batch, columns)
        return Reduced(found, error)


def groups(batch: torch.Size, *, most: int) -> list[tuple[tuple[int | slice, ...], slice]]:
    """The entries of a batch in groups along its last axis: the index of each, and its entries."""
    if not batch:
        return [((), slice(0, 1))]
    *leading, last = batch
    count = -(-last // most)
    bounds = [k * last // count for k in range(count + 1)] if last else []
    found: list[tuple[tuple[int | slice, ...], slice]] = []
    for number, outer in enumerate(product(*map(range, leading))):
        for start, stop in pairwise(bounds):
            entries = slice(number * last + start, number * last + stop)
            found.append(((*outer, slice(start, stop)), entries))
    return found
