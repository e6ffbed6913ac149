"""Row reductions of systems with one scalar decay a token, by compiled loops.

Exact, or truncated where a bound on all earlier columns is small enough.
"""

import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.evaluate.loops import TILE, Heads
from dsf.measures.fold import KINDS, NORM, Progress, Reduced, RowReduction, all_safe


def limit(error: float, steps: int) -> tuple[float, float]:
    """What may be left out of a row for an error of at most ``error`` in all of its measures.

    A share p of its weight, which changes the entropy of a row of n tokens by at most
    ``p log n + h(p)``, with ``h(p) <= p (1 + log 1/p)`` the binary entropy of p; and a change of
    the mean distance, in tokens.
    """
    share = error / (2 * (1 + math.log(1 / error) + math.log(steps + 1))) if error else 0.0
    return share, error


MOST = 16  # tiles of a chunk of columns: its 64 x 1024 scores fit the cache

ENTRY = 0.6e-9  # seconds for one entry of one map, all measures together
LONG = 60.0  # seconds of work from which a warning is logged

logger = logging.getLogger(__name__)


def of_heads(
    heads: Heads,
    wanted: Sequence[RowReduction],
    *,
    error: float = 0.0,
    progress: Progress | None = None,
) -> Reduced:
    """Those of ``wanted`` that sums over tiles find, one tile of rows of a group after the other.

    The norm is not among them where squares of entries leave the range of numbers.
    """
    groups, number, steps = heads.decay.shape
    near = [each for each in wanted if each.name == "near"]
    index = {each: KINDS.index(each.name) for each in wanted if each.name in KINDS[:-1]}
    index |= {each: KINDS.index("near") + k for k, each in enumerate(near)}
    numbers = {each: heads.decay.new_zeros(groups, number, steps) for each in index}
    left, visited = torch.zeros(groups, number, dtype=torch.float64), 0
    for group in range(groups):
        fold = _HeadFold(heads, group, list(index), limit(error, steps))
        if group == 0:
            _warn_if_long(fold.far_back(), steps, groups)
        for tile in range(heads.tiles):
            rows = slice(tile * TILE, min(steps, (tile + 1) * TILE))
            statistics, missed, seen = fold.tile(tile, rows)
            if not all_safe(statistics[:, KINDS.index("largest")]):
                numbers.pop(NORM, None)
            energy = statistics[:, KINDS.index("norm")]
            np.sqrt(energy, out=energy)
            for each, part in numbers.items():
                part[group, :, rows] = torch.from_numpy(statistics[:, index[each]])
            left[group] = torch.maximum(left[group], torch.from_numpy(missed))
            visited += seen
            if progress is not None:
                progress(group * steps + rows.stop, groups * steps)
    found = {each: heads.in_batch(part) for each, part in numbers.items()}
    in_reach = groups * number * steps * (steps + 1) / 2
    return Reduced(found, error, heads.in_batch(left), visited / in_reach)


def _warn_if_long(far_back: np.ndarray, steps: int, groups: int) -> None:
    """Log a warning with the estimated time and the reason if the pass will take long."""
    entries = groups * steps * float(np.minimum(far_back, steps / 2).sum())
    if entries * ENTRY < LONG:
        return
    whole = int((far_back >= steps - TILE).sum())
    logger.warning(
        f"measures: about {entries * ENTRY:.0f} s of work, {entries:.0e} entries. For {whole} of "
        f"{len(far_back)} heads all columns back to the first token are needed: for them the work "
        f"grows with the square of the {steps} tokens. A larger 'error' or fewer tokens take less."
    )


class _HeadFold:
    """One group of heads: products of decays for all tokens, and the reductions of one tile."""

    def __init__(
        self, heads: Heads, group: int, wanted: Sequence[RowReduction], limit: tuple[float, float]
    ) -> None:
        from dsf.systems.kernels.scalar_tiles import all_before, suffixes

        self.peaks = any(each.name in ("norm", "largest", "lowest") for each in wanted)
        self.widths = np.array([each.token for each in wanted if each.name == "near"], dtype=int)
        self.limit, self.before = limit, heads.before
        self.read, self.write = heads.read[group], heads.write[group]
        self.decay, self.step = heads.decay[group].contiguous(), heads.step[group].contiguous()
        self.feedthrough = heads.feedthrough[group]
        number = self.decay.shape[0]
        self.factor = torch.empty_like(self.decay)
        self.product = np.empty((number, heads.tiles))
        suffixes(self.decay.numpy(), self.step.numpy(), self.factor.numpy(), self.product)
        self.logs = _logs(self.factor)
        weight = self.step * self.write.norm(dim=-1)
        self.mass, self.lagged = np.zeros((2, number, heads.tiles))
        all_before(self.decay.numpy(), weight.numpy(), self.mass, self.lagged)
        self.sizes = self.read.norm(dim=-1).double().numpy()
        self.scores = self.read.new_empty(MOST * TILE * TILE)
        self.parts = self.read.new_empty(3 * MOST * TILE * TILE)

    def tile(self, tile: int, rows: slice) -> tuple[np.ndarray, np.ndarray, int]:
        """All sums for all heads and these rows, the share left out, and the entries computed."""
        from dsf.systems.kernels.scalar_tiles import sum_tiles

        number, count = len(self.decay), rows.stop - rows.start
        state = _State(number, tile, len(self.widths))
        read = torch.nn.functional.pad(self.read[rows], (0, 0, 0, TILE - count))
        self._own(read, rows, state)
        factors = self.factor.numpy(), self.logs.numpy(), self.product
        active, visited = self._unfinished(np.arange(number), rows, state, MOST), 0
        while len(active):
            last = int(state.stops[active].max())
            first = max(last - MOST, int(state.firsts[active].min()))
            parts = self._parts(self.write[first * TILE : last * TILE], read)
            spans, decays = (state.firsts, state.stops), (state.reach, state.log_reach, state.gap)
            asked = (rows.start, self.widths, self.peaks)
            tiles = sum_tiles(parts, first, factors, active, spans, decays, asked, state.statistics)
            visited += tiles * count * TILE
            active = self._unfinished(active, rows, state, MOST)
        visited += number * count * (count + 1) // 2
        return state.statistics.reshape(number, -1, TILE)[..., :count], state.left, visited

    def far_back(self) -> np.ndarray:
        """Estimate for every head of how many columns before the last tile of rows are needed."""
        number, tiles = self.product.shape
        rows = slice((tiles - 1) * TILE, self.decay.shape[1])
        state = _State(number, tiles - 1, len(self.widths))
        read = torch.nn.functional.pad(self.read[rows], (0, 0, 0, tiles * TILE - rows.stop))
        self._own(read, rows, state)
        self._unfinished(np.arange(number), rows, state, tiles)
        return TILE * (tiles - 1 - state.firsts)

    def _unfinished(
        self, active: np.ndarray, rows: slice, state: "_State", most: int
    ) -> np.ndarray:
        """The heads for which earlier tiles cannot be left out yet."""
        from dsf.systems.kernels.scalar_tiles import still_open

        earlier = self.product, self.mass, self.lagged
        spans, limits = (rows.start, state.stops, most), self.limit
        found = state.statistics, active, state.firsts, state.left
        sizes, reach, gap = self.sizes[rows], state.reach, state.gap
        count = still_open(sizes, reach, gap, earlier, spans, limits, found)
        return active[:count]

    def _own(self, read: Tensor, rows: slice, state: "_State") -> None:
        from dsf.systems.kernels.scalar_tiles import sum_own_tile

        numbers = (self.decay, self.step, self.feedthrough)
        # contiguous, as a loop is compiled once for every memory layout
        decay, step, through = (
            part[:, rows].clone(memory_format=torch.contiguous_format) for part in numbers
        )
        logs = _logs(decay), _logs(step)
        arrays = tuple(part.numpy() for part in (decay, step, *logs, through))
        parts = self._parts(self.write[rows], read)
        found = state.statistics, state.reach, state.log_reach
        sum_own_tile(parts, arrays, self.before, self.widths, self.peaks, found)

    def _parts(self, write: Tensor, read: Tensor) -> np.ndarray:
        """Scores of columns and rows: absolute values, those times their logs, negative parts."""
        from dsf.systems.kernels.scalar_tiles import split_scores

        size = len(write) * TILE
        scores = self.scores[:size]
        torch.mm(write, read.mT, out=scores.view(len(write), TILE))
        parts = self.parts[: 3 * size].view(3, size).numpy()
        split_scores(scores.numpy(), *parts)
        return parts


class _State:
    """The sums and bounds of the rows of one tile while earlier tiles are added.

    Attributes:
        statistics: the sums so far, ``head (kind row)``.
        reach, log_reach: decays from the start of the tile up to every row, and their logarithms.
        gap: for every head the product of the decays between the tiles added last and this one.
        left: the largest share of a row that is left out.
        stops, firsts: for every head the earliest tile added, and a tile where it may stop.
    """

    def __init__(self, number: int, tile: int, widths: int) -> None:
        self.statistics = np.zeros((number, (KINDS.index("near") + widths) * TILE))
        self.reach, self.log_reach = np.zeros((2, number, TILE))
        self.gap, self.left = np.ones(number), np.zeros(number)
        self.stops, self.firsts = np.full((2, number), tile)


def _logs(size: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Logarithms of absolute values; some finite number for zero, as it is multiplied by zero."""
    return size.clamp(min=torch.finfo(size.dtype).tiny).log_()
