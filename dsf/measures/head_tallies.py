"""Tallies of maps with one decay a token, from tiles that stay in the cache, never from a map.

Columns are visited backwards. What they can add at most is known before they are looked at, from
the sizes of reads and writes and the decays between; a head stops where that is little enough.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.evaluate.heads import TILE, Heads
from dsf.measures.tallies import Tallied, Tally

MOST = 16  # tiles of a chunk; scores of 64 x 1024 stay in the cache
KINDS = ("mass", "negative", "energy", "surprise", "distance", "largest", "lowest", "near")

ENTRY = 0.6e-9  # seconds for an entry of one map, all measures together
LONG = 60.0  # seconds of work that are announced

Progress = Callable[[int, int], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limit:
    """When a row may stop: at this share of its weight left out, and tokens of mean distance."""

    share: float
    tokens: float


def limit(error: float, steps: int) -> Limit:
    """What may be left out so that shares, distances and entropies are off by ``error`` at most.

    Leaving out a share p changes the entropy of a row of n tokens by at most ``p log n + h(p)``,
    with ``h(p) <= p (1 + log 1/p)`` the entropy of the choice itself.
    """
    if error == 0:
        return Limit(0.0, 0.0)
    return Limit(error / (2 * (1 + math.log(1 / error) + math.log(steps + 1))), error)


def head_tallies(
    heads: Heads, wanted: Sequence[Tally], *, error: float, progress: Progress | None = None
) -> Tallied:
    """All of ``wanted`` in one pass over the tiles of every group of heads."""
    groups, number, steps = heads.decay.shape
    found = {each: heads.decay.new_empty(groups, number, steps) for each in wanted}
    left, visited, done = torch.zeros(groups, number, dtype=torch.float64), 0, 0
    for group in range(groups):
        fold = _Fold(heads, group, wanted, limit(error, steps))
        if group == 0:
            _announce(fold.far_back(), steps, groups)
        for tile in range(heads.tiles):
            rows = slice(tile * TILE, min(steps, (tile + 1) * TILE))
            tally = fold.tile(tile, rows)
            for each, numbers in found.items():
                numbers[group, :, rows] = torch.from_numpy(tally[fold.place(each)])
            left[group] = torch.maximum(left[group], torch.from_numpy(fold.left))
            done += rows.stop - rows.start
            if progress is not None:
                progress(done, groups * steps)
        visited += fold.visited
    in_reach = groups * number * steps * (steps + 1) / 2
    kept = {each: heads.in_batch(numbers) for each, numbers in found.items()}
    return Tallied(kept, error, heads.in_batch(left), visited / in_reach)


def _announce(far_back: np.ndarray, steps: int, groups: int) -> None:
    """Say before starting that the work is long, and why."""
    entries = groups * steps * float(np.minimum(far_back, steps / 2).sum())
    if entries * ENTRY < LONG:
        return
    whole = int((far_back >= steps - TILE).sum())
    logger.warning(
        f"measures: about {entries * ENTRY:.0f} s of work, {entries:.0e} entries. {whole} of "
        f"{len(far_back)} heads have to be read back to the first token: for them the work grows "
        f"with the square of the {steps} tokens. A larger 'error' or fewer tokens take less."
    )


class _Fold:
    """One group of heads, all its tokens prepared; gives the tallies of one tile of rows."""

    def __init__(self, heads: Heads, group: int, wanted: Sequence[Tally], limit: Limit) -> None:
        from dsf.kernels.scalar_rows import suffixes
        from dsf.kernels.tallying import all_before

        self.names = {each.name for each in wanted}
        self.widths = np.array([each.token for each in wanted if each.name == "near"], dtype=int)
        self.limit, self.before = limit, heads.before
        self.read, self.write = heads.read[group], heads.write[group]
        self.decay, self.step = heads.decay[group].contiguous(), heads.step[group].contiguous()
        self.feedthrough = heads.feedthrough[group]
        number = self.decay.shape[0]
        self.factor = torch.empty_like(self.decay)
        self.product = np.empty((number, heads.tiles))
        suffixes(self.decay.numpy(), self.step.numpy(), self.factor.numpy(), self.product)
        self.logs = torch.where(self.factor > 0, self.factor, 1).log_()
        weight = self.step * self.write.norm(dim=-1)
        self.mass, self.lagged = np.zeros((2, number, heads.tiles))
        all_before(self.decay.numpy(), weight.numpy(), self.mass, self.lagged)
        self.sizes = self.read.norm(dim=-1).double().numpy()
        self.left, self.visited = np.zeros(number), 0

    def place(self, each: Tally) -> int:
        """Where its row of the tallies is."""
        if each.name != "near":
            return KINDS.index(each.name)
        return KINDS.index("near") + self.widths.tolist().index(each.token)

    def tile(self, tile: int, rows: slice) -> np.ndarray:
        """Every kind of sum, for all heads and these rows."""
        number, count = len(self.decay), rows.stop - rows.start
        tally = np.zeros((KINDS.index("near") + len(self.widths), number, count))
        reach = self._own(rows, tally)
        self.left, gap = np.zeros(number), np.ones(number)
        active, stop = np.arange(number), tile
        while stop and len(active):
            active = self._going_on(active, stop, rows, reach, gap, tally)
            if len(active):
                needed = self._needed(active, stop, MOST, rows, reach, gap, tally)
                first = stop - int(np.median(needed))  # the slow half is asked again
                self._chunk(active, first, stop, rows, reach, gap, tally)
                self.visited += len(active) * count * (stop - first) * TILE
                stop = first
                self.left[active] = 0.0  # of those that go on it is asked again
        return tally

    def far_back(self) -> np.ndarray:
        """About how many tokens the last rows read back, for every head; nothing is kept."""
        number, tiles = self.product.shape
        rows = slice((tiles - 1) * TILE, self.decay.shape[1])
        tally = np.zeros((KINDS.index("near") + len(self.widths), number, rows.stop - rows.start))
        reach, gap = self._own(rows, tally), np.ones(number)
        self.visited = 0
        return TILE * self._needed(np.arange(number), tiles - 1, tiles, rows, reach, gap, tally)

    def _needed(
        self,
        active: np.ndarray,
        stop: int,
        most: int,
        rows: slice,
        reach: np.ndarray,
        gap: np.ndarray,
        tally: np.ndarray,
    ) -> np.ndarray:
        """After how many tiles before ``stop`` each head may stop for certain, up to ``most``."""
        from dsf.kernels.stopping import tiles_needed

        needed = np.zeros(len(active), dtype=int)
        kept = self.product, self.mass, self.lagged
        spans, limits = (rows.start, stop, most), (self.limit.share, self.limit.tokens)
        tiles_needed(self.sizes[rows], reach, gap, *kept, *spans, active, tally, *limits, needed)
        return needed

    def _own(self, rows: slice, tally: np.ndarray) -> np.ndarray:
        from dsf.kernels.tallying import own_entries, tally_entries

        read, write = self.read[rows], self.write[rows]
        number, count = len(self.decay), len(read)
        entries = read.new_empty(number, count, count)
        reach = np.empty((number, count))
        numbers = (self.decay, self.step, self.feedthrough)
        # one layout of memory, one compilation
        parts = [part[:, rows].clone(memory_format=torch.contiguous_format) for part in numbers]
        arrays = [part.numpy() for part in (read @ write.mT, *parts)]
        own_entries(*arrays, self.before, entries.numpy(), reach)
        logs = _logs(entries.abs()) if "surprise" in self.names else entries
        tally_entries(entries.numpy(), logs.numpy(), 0, self.widths, tally)
        self.visited += number * count * (count + 1) // 2
        if rows.stop == self.decay.shape[1]:  # the last row has no zeros ahead, all others do
            tally[KINDS.index("lowest"), :, -1] = entries[:, -1].amin(dim=-1)
        return reach

    def _going_on(
        self,
        active: np.ndarray,
        stop: int,
        rows: slice,
        reach: np.ndarray,
        gap: np.ndarray,
        tally: np.ndarray,
    ) -> np.ndarray:
        """The heads whose earlier tiles cannot be left out."""
        from dsf.kernels.stopping import left_over

        kept = self.mass[:, stop - 1].copy(), self.lagged[:, stop - 1].copy()
        lag = rows.start - stop * TILE + 1
        limits = (self.limit.share, self.limit.tokens, self.left)
        count = left_over(self.sizes[rows], reach, gap, *kept, lag, active, tally, *limits)
        return active[:count]

    def _chunk(
        self,
        active: np.ndarray,
        first: int,
        last: int,
        rows: slice,
        reach: np.ndarray,
        gap: np.ndarray,
        tally: np.ndarray,
    ) -> None:
        """Add the columns of the tiles ``first`` to ``last - 1``."""
        from dsf.kernels.tallying import faded_columns, tally_chunk, tally_peaks

        columns, count = slice(first * TILE, last * TILE), len(active)
        scores = self.read[rows] @ self.write[columns].mT
        right = scores.new_empty(scores.shape[1], 3 * count)
        decays = (self.factor.numpy(), self.logs.numpy(), self.product)
        faded_columns(*decays, active, first, last, right.numpy())
        size, faded = scores.abs(), right[:, :count]
        nothing = scores.new_zeros(len(scores), count)
        wants = self.names.__contains__
        parts = [
            size @ right,
            _logs(size).mul_(size) @ faded if wants("surprise") else nothing,
            -(scores.clamp(max=0) @ faded) if wants("negative") else nothing,
            size.square() @ faded.square() if wants("energy") else nothing,
            self._near(size, faded, rows.start, columns),
        ]
        lag = rows.start - last * TILE + 1
        tally_chunk(*(part.numpy() for part in parts), active, reach, gap, lag, tally)
        if wants("largest") or wants("lowest"):
            tally_peaks(scores.numpy(), right.numpy(), active, reach, gap, tally)
        gap[active] *= self.product[active, first:last].prod(axis=1)

    def _near(self, size: Tensor, faded: Tensor, start: int, columns: slice) -> Tensor:
        near = size.new_zeros(len(self.widths), len(size), faded.shape[1])
        if not (start - columns.stop + 1 < self.widths).any():
            return near
        token = torch.arange(columns.start, columns.stop)
        lag = torch.arange(start, start + len(size))[:, None] - token
        for found, width in zip(near, self.widths.tolist(), strict=True):
            if start - columns.stop + 1 < width:
                torch.mm(size * (lag < width), faded, out=found)
        return near


def _logs(size: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Any number where the size is zero, which makes nothing of it."""
    return size.clamp(min=torch.finfo(size.dtype).tiny).log_()
