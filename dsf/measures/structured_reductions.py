"""Row reductions that use the structure of a system, so that whole rows are never computed.

- ``limit``: how much of a row may be left out for a given error bound.
- ``DiagonalPass``: diagonal systems with truncation. The columns of a tile of rows are computed
  from the diagonal back until a bound on all earlier columns is small enough.
- ``HeadPass``: systems with one scalar decay a token, by compiled loops, exact or with the same
  truncation.
- ``ScorePass``: rows that are exponentials of scores, such as softmax attention, by compiled loops.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise, product
from math import inf
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.algebra import select
from dsf.coefficient import cut_of, dense_of
from dsf.composite import Operator
from dsf.evaluate import Rows
from dsf.evaluate.cache import whole_rows
from dsf.evaluate.heads import TILE, Heads
from dsf.evaluate.rows import blocks_between
from dsf.ingredients.softmax_rows import ExponentialRows
from dsf.kernels import applies
from dsf.measures.fold import ENTRIES, all_safe
from dsf.measures.row_reductions import (
    BY_LAG,
    DISTANCE,
    KINDS,
    MASS,
    Reduced,
    RowPass,
    RowReduction,
    name_of,
)
from dsf.system import System
from dsf.threads import in_parallel, shares
from dsf.transition import Diagonal


@dataclass(frozen=True)
class Limit:
    """What truncation of a row may leave out.

    Attributes:
        share: of the absolute weight of the row.
        tokens: change of its mean distance, in tokens.
    """

    share: float
    tokens: float


def limit(error: float, steps: int) -> Limit:
    """The limit for which shares, distances and entropies have an error of at most ``error``.

    Leaving out a share p changes the entropy of a row of n tokens by at most ``p log n + h(p)``,
    with ``h(p) <= p (1 + log 1/p)`` the binary entropy of p.
    """
    if error == 0:
        return Limit(0.0, 0.0)
    return Limit(error / (2 * (1 + math.log(1 / error) + math.log(steps + 1))), error)


DIAGONAL_TILE = 64


class DiagonalPass(RowPass):
    """Diagonal systems with truncation, one tile of rows after the other.

    Entries of the batch with similar decays are processed together, as they need as many columns.
    """

    def __init__(self, system: System, wanted: Sequence[RowReduction], *, error: float) -> None:
        entries, self.steps = system.batch.numel(), system.steps
        self.system, self.wanted, self.limit = system, wanted, limit(error, self.steps)
        together = max(1, ENTRIES // (DIAGONAL_TILE * self.steps))
        self.groups = _by_decay(system).split(together)
        self.tiles = -(-self.steps // DIAGONAL_TILE)
        self.rows = len(self.groups) * self.steps
        self.numbers: dict[RowReduction, Tensor] = {}
        self.left = torch.zeros(entries, dtype=torch.float64)
        self.visited = torch.zeros(entries, dtype=torch.int64)

    def blocks(self, first: int) -> Iterator[int]:
        begin = divmod(first, self.tiles)
        for number in range(begin[0], len(self.groups)):
            group = self.groups[number]
            index = torch.unravel_index(group, self.system.batch) if self.system.batch else ()
            truncated = _TruncatedRows(select(self.system, index), self.limit)
            for tile in range(begin[1] if number == begin[0] else 0, self.tiles):
                rows, left = truncated.rows(tile)
                span = slice(tile * DIAGONAL_TILE, tile * DIAGONAL_TILE + len(rows.written))
                for each in self.wanted:
                    found = each.look(rows)
                    if each not in self.numbers:
                        self.numbers[each] = found.new_zeros(len(self.left), self.steps)
                    self.numbers[each][group, span] = found
                self.left[group] = torch.maximum(self.left[group], left)
                self.visited[group] += int((rows.lag >= 0).sum())
                yield number * self.steps + span.stop

    def found(self) -> dict[str, Tensor]:
        numbers = {name_of(each): part for each, part in self.numbers.items()}
        return numbers | {"left": self.left, "visited": self.visited}

    def resume(self, found: dict[str, Tensor]) -> None:
        self.left, self.visited = found["left"], found["visited"]
        self.numbers = {each: found[name_of(each)] for each in self.wanted}

    def reduced(self, error: float) -> Reduced:
        batch, in_reach = self.system.batch, len(self.left) * self.steps * (self.steps + 1) / 2
        found = {each: part.view(*batch, self.steps) for each, part in self.numbers.items()}
        return Reduced(found, error, self.left.view(batch), int(self.visited.sum()) / in_reach)


@dataclass
class _Bound:
    """Bounds on what the columns before a tile contribute to a few rows of every system.

    Attributes:
        share: of the absolute weight of the columns after it.
        tokens: change of the mean distance, in tokens.
    """

    share: Float[Tensor, "*entry rows"]
    tokens: Float[Tensor, "*entry rows"]

    def suffices(self, limit: Limit) -> bool:
        """Whether those columns may be left out in every row; never where a bound is nan."""
        return bool(((self.share <= limit.share) & (self.tokens <= limit.tokens)).all())


class _TruncatedRows:
    """Rows of diagonal systems without the columns that are negligible, and a bound on those.

    For every tile of tokens, ``decays`` are the products of its absolute decays, ``masses`` the
    absolute writes of all tokens up to its end, decayed to there, and ``lagged`` the same sums with
    every write times its lag.
    """

    def __init__(self, system: System, limit: Limit) -> None:
        self.system, self.limit, self.width = system, limit, 1
        kept = mass = moved = torch.zeros((), dtype=torch.float64)
        self.decays: list[Tensor] = []
        self.masses: list[Tensor] = []
        self.lagged: list[Tensor] = []
        for start in range(0, system.steps - DIAGONAL_TILE, DIAGONAL_TILE):
            decay, write = self._sizes(start, start + DIAGONAL_TILE)
            after = decay.flip(-2).cumprod(dim=-2).flip(-2)
            kept = after[..., 0, :]
            last = torch.ones_like(after[..., :1, :])
            decayed = torch.cat([after[..., 1:, :], last], dim=-2) * write
            lag = torch.arange(DIAGONAL_TILE - 1, -1, -1, dtype=decayed.dtype).unsqueeze(-1)
            moved = kept * (moved + DIAGONAL_TILE * mass) + (lag * decayed).sum(dim=-2)
            mass = kept * mass + decayed.sum(dim=-2)
            self.decays.append(kept)
            self.masses.append(mass)
            self.lagged.append(moved)

    def rows(self, tile: int) -> tuple[Rows, Float[Tensor, "*entry"]]:
        """The rows of a tile without negligible columns, and the largest share left out."""
        start, stop = tile * DIAGONAL_TILE, min(self.system.steps, (tile + 1) * DIAGONAL_TILE)
        reach = self._reach(start, stop)
        width = min(self.width, tile)
        while True:
            rows = self._between(tile - width, start, stop)
            mass, distance = (each.look(rows).double() for each in (MASS, DISTANCE))
            bound = self._before(tile - width, tile, reach, mass, distance)
            if width == tile or bound.suffices(self.limit):
                break
            width = min(tile, 2 * width + 1)
        enough = self._enough(tile, width, reach, mass, distance)
        # a little more for the next tile: a second attempt costs all columns again
        self.width = enough + enough // 8 + 1
        return rows, bound.share.amax(dim=-1)

    def _enough(self, tile: int, width: int, reach: Tensor, mass: Tensor, distance: Tensor) -> int:
        """The smallest number of earlier tiles that would have been enough, by bisection."""
        low, high = 0, width
        while low < high:
            middle = (low + high) // 2
            bound = self._before(tile - middle, tile, reach, mass, distance)
            low, high = (low, middle) if bound.suffices(self.limit) else (middle + 1, high)
        return high

    def _before(
        self, first: int, tile: int, reach: Tensor, mass: Tensor, distance: Tensor
    ) -> _Bound:
        """A bound on what the columns before the tile ``first`` add to the rows of ``tile``."""
        if first == 0:
            return _Bound(torch.zeros_like(mass), torch.zeros_like(mass))
        gap = torch.ones_like(self.decays[0])
        for earlier in range(first, tile):
            gap = gap * self.decays[earlier]
        mass_before, moved = gap * self.masses[first - 1], gap * self.lagged[first - 1]
        rest = (reach @ mass_before.unsqueeze(-1)).squeeze(-1)
        lag = torch.arange(reach.shape[-2], dtype=rest.dtype) + ((tile - first) * DIAGONAL_TILE + 1)
        away = (reach @ moved.unsqueeze(-1)).squeeze(-1) + lag * rest
        share = torch.where(rest == 0, 0, torch.where(mass > 0, rest / mass, inf))
        far = torch.where(mass > 0, distance / mass, 0)
        return _Bound(share, torch.where(rest == 0, 0, away / mass + share * far))

    def _sizes(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Absolute values of decays and writes."""
        A = cast("Diagonal", self.system.A.cut(start, stop).window(0, stop - start))
        write = dense_of(cut_of(self.system.B, start, stop)).squeeze(-1)
        return A.decay.double().abs(), write.double().abs()

    def _reach(self, start: int, stop: int) -> Tensor:
        """Absolute values of reads, times the decays from ``start`` up to every row."""
        decay, _ = self._sizes(start, stop)
        passed = decay.cumprod(dim=-2)
        if self.system.reads_before_update:
            passed = torch.cat([torch.ones_like(passed[..., :1, :]), passed[..., :-1, :]], dim=-2)
        return passed * dense_of(cut_of(self.system.C, start, stop)).squeeze(-2).double().abs()

    def _between(self, first: int, start: int, stop: int) -> Rows:
        """Rows in the columns from the tile ``first`` on, from the map of those tokens alone."""
        begin, whole = first * DIAGONAL_TILE, self.system
        part = replace(
            whole,
            A=whole.A.cut(begin, stop),
            B=cut_of(whole.B, begin, stop),
            C=cut_of(whole.C, begin, stop),
            D=cut_of(whole.feedthrough, begin, stop),
            initial=None,
        )
        (rows,) = blocks_between(part, start - begin, stop - begin)
        return Rows(rows.weights, rows.written + begin, rows.read + begin)


def _by_decay(system: System) -> Tensor:
    """The batch entries ordered by their slowest state, slowest first, from the first tokens."""
    A = cast("Diagonal", system.A.window(0, min(system.steps, DIAGONAL_TILE)))
    slowest = A.decay.abs().amax(dim=-1).mean(dim=-1)
    return slowest.reshape(-1).argsort(descending=True, stable=True)


MOST = 16  # tiles of a chunk of columns: its 64 x 1024 scores fit the cache

ENTRY = 0.6e-9  # seconds for one entry of one map, all measures together
LONG = 60.0  # a warning is logged if the work takes longer than so many seconds

logger = logging.getLogger(__name__)


class HeadPass(RowPass):
    """Systems with one scalar decay a token: every group of heads, one tile of rows at a time.

    Attributes:
        leaves_range: whether squares of weights have left the range of the numbers.
    """

    leaves_range = False

    def __init__(self, heads: Heads, wanted: Sequence[RowReduction], *, error: float) -> None:
        self.heads, self.wanted, self.limit = heads, wanted, limit(error, heads.steps)
        groups, number, steps = heads.decay.shape
        self.rows = groups * steps
        self.numbers = {each: heads.decay.new_zeros(groups, number, steps) for each in wanted}
        self.left = torch.zeros(groups, number, dtype=torch.float64)
        self.visited = torch.zeros(groups, dtype=torch.int64)

    def blocks(self, first: int) -> Iterator[int]:
        groups, begin = len(self.left), divmod(first, self.heads.tiles)
        for group in range(begin[0], groups):
            fold = _HeadFold(self.heads, group, self.wanted, self.limit)
            if group == 0:
                _warn_if_long(fold.far_back(), self.heads.steps, groups)
            for tile in range(begin[1] if group == begin[0] else 0, self.heads.tiles):
                rows = slice(tile * TILE, min(self.heads.steps, (tile + 1) * TILE))
                statistics, left, visited = fold.tile(tile, rows)
                largest, energy = (statistics[:, KINDS.index(k)] for k in ("largest", "norm"))
                self.leaves_range |= fold.peaks and not all_safe(largest)
                np.sqrt(energy, out=energy)
                for each, numbers in self.numbers.items():
                    numbers[group, :, rows] = torch.from_numpy(statistics[:, fold.index(each)])
                self.left[group] = torch.maximum(self.left[group], torch.from_numpy(left))
                self.visited[group] += visited
                yield group * self.heads.steps + rows.stop

    def found(self) -> dict[str, Tensor]:
        numbers = {name_of(each): part for each, part in self.numbers.items()}
        return numbers | {"left": self.left, "visited": self.visited}

    def resume(self, found: dict[str, Tensor]) -> None:
        self.left, self.visited = found["left"], found["visited"]
        self.numbers = {each: found[name_of(each)] for each in self.wanted}

    def reduced(self, error: float) -> Reduced:
        groups, number, steps = self.heads.decay.shape
        in_reach = groups * number * steps * (steps + 1) / 2
        found = {each: self.heads.in_batch(part) for each, part in self.numbers.items()}
        visited = int(self.visited.sum()) / in_reach
        return Reduced(found, error, self.heads.in_batch(self.left), visited)


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
        self, heads: Heads, group: int, wanted: Sequence[RowReduction], limit: Limit
    ) -> None:
        from dsf.kernels.scalar_rows import suffixes
        from dsf.kernels.scalar_tile_sums import all_before

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

    def index(self, each: RowReduction) -> int:
        """The index of a reduction among the rows of the statistics."""
        if each.name != "near":
            return KINDS.index(each.name)
        return KINDS.index("near") + self.widths.tolist().index(each.token)

    def tile(self, tile: int, rows: slice) -> tuple[np.ndarray, np.ndarray, int]:
        """All sums for all heads and these rows, the share left out, and the entries computed."""
        from dsf.kernels.scalar_tile_sums import sum_tiles

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
            tiles = sum_tiles(
                parts, first, *factors, active, *spans, *decays, *asked, state.statistics
            )
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
        from dsf.kernels.truncation import still_open

        earlier = self.product, self.mass, self.lagged
        spans, limits = (rows.start, state.stops, most), (self.limit.share, self.limit.tokens)
        found = state.statistics, active, state.firsts, state.left
        sizes, reach, gap = self.sizes[rows], state.reach, state.gap
        count = still_open(sizes, reach, gap, *earlier, *spans, *limits, *found)
        return active[:count]

    def _own(self, read: Tensor, rows: slice, state: "_State") -> None:
        from dsf.kernels.diagonal_tile_sums import sum_own_tile

        numbers = (self.decay, self.step, self.feedthrough)
        # contiguous, as a loop is compiled once for every memory layout
        decay, step, through = (
            part[:, rows].clone(memory_format=torch.contiguous_format) for part in numbers
        )
        logs = _logs(decay), _logs(step)
        arrays = [part.numpy() for part in (decay, step, *logs, through)]
        parts = self._parts(self.write[rows], read)
        found = state.statistics, state.reach, state.log_reach
        sum_own_tile(parts, *arrays, self.before, self.widths, self.peaks, *found)

    def _parts(self, write: Tensor, read: Tensor) -> np.ndarray:
        """Scores of columns and rows: absolute values, those times their logs, negative parts."""
        from dsf.kernels.scalar_tile_sums import split_scores

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


ROWS, PANEL_ENTRIES = 64, 1 << 21  # limits of a panel, so that it fits the cache
MAPS, MAPS_ENTRIES = 16, 1 << 19  # of a panel at most, whose scores are one product
SHARED = 1 << 17  # entries of a panel from which on several threads are faster than one


def scores_of(system: Operator) -> ExponentialRows | None:
    """The source of the scores of ``system`` where compiled loops apply; else None."""
    rows = whole_rows(system)
    if not isinstance(rows, ExponentialRows):
        return None
    stored = [getattr(rows, field.name) for field in fields(rows)]
    parts = [part for part in stored if isinstance(part, Tensor)]
    real = not any(part.is_complex() for part in parts)
    return rows if real and applies(*parts, work=rows.shape.numel()) else None


class ScorePass(RowPass):
    """Rows that are exponentials of scores: a few maps of the batch after the other, by panels."""

    def __init__(self, source: ExponentialRows, wanted: Sequence[RowReduction]) -> None:
        from dsf.kernels.exponential_rows import BLOCK

        self.source, self.indices = source, _indices(wanted)
        self.lagged = BY_LAG in wanted
        self.widths, self.tokens = (
            np.array([each.token for each in self.indices if each.name == name], dtype=int)
            for name in ("near", "on")
        )
        *self.batch, self.steps, _, columns = source.shape
        self.size = max(1, min(ROWS, PANEL_ENTRIES // max(columns, 1)))
        together = max(1, min(MAPS, MAPS_ENTRIES // max(self.size * columns, 1)))
        self.groups = groups(torch.Size(self.batch), most=together)
        self.panels = -(-self.steps // self.size)
        self.rows = math.prod(self.batch) * self.steps
        shape = (math.prod(self.batch), self.steps)
        self.numbers = {each: source.query.new_zeros(shape) for each in self.indices}
        self.by_lag = np.zeros((shape[0], columns if self.lagged else 0))
        self.ahead = torch.arange(BLOCK, dtype=source.dtype).numpy()

    def blocks(self, first: int) -> Iterator[int]:
        begin = divmod(first, self.panels)
        for number in range(begin[0], len(self.groups)):
            index, entries = self.groups[number]
            several = torch.Size([entries.stop - entries.start] if self.batch else [])
            some = self.source.picked(index, several)
            for panel in range(begin[1] if number == begin[0] else 0, self.panels):
                start, stop = panel * self.size, min(self.steps, (panel + 1) * self.size)
                statistics = self._panel(some, start, stop, self.by_lag[entries])
                for each, numbers in self.numbers.items():
                    found = statistics[:, self.indices[each]]
                    numbers[entries, start:stop] = torch.from_numpy(found)
                yield entries.start * self.steps + (entries.stop - entries.start) * stop

    def _panel(
        self, some: ExponentialRows, start: int, stop: int, by_lag: np.ndarray
    ) -> np.ndarray:
        """All sums of some rows of a few maps, ``map kind row``; sums by lag go to ``by_lag``."""
        from dsf.kernels.exponential_rows import sum_exponentials

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

    def found(self) -> dict[str, Tensor]:
        numbers = {name_of(each): numbers for each, numbers in self.numbers.items()}
        return numbers | {name_of(BY_LAG): torch.from_numpy(self.by_lag)}

    def resume(self, found: dict[str, Tensor]) -> None:
        for each, numbers in self.numbers.items():
            numbers.copy_(found[name_of(each)])
        self.by_lag = found[name_of(BY_LAG)].numpy().copy()

    def reduced(self, error: float) -> Reduced:
        shape = (*self.batch, self.steps)
        found = {each: part.view(shape) for each, part in self.numbers.items()}
        if self.lagged:
            found[BY_LAG] = self._by_lag()
        return Reduced(found, error)

    def _by_lag(self) -> Tensor:
        sums = torch.from_numpy(self.by_lag[:, ::-1].copy()).to(self.source.dtype)
        columns = sums.shape[-1]
        lag = torch.arange(columns)
        entries = (self.steps - lag).clamp(min=0).minimum(torch.tensor(columns))
        return torch.stack([sums, entries.to(sums.dtype).expand_as(sums)]).view(
            2, *self.batch, columns
        )


def groups(batch: torch.Size, *, most: int) -> list[tuple[tuple[int | slice, ...], slice]]:
    """The entries of a batch in groups along its last axis: the index of each, and its entries.

    Every group is a view of what is stored, so that what maps share is not copied.
    """
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


def _indices(wanted: Sequence[RowReduction]) -> dict[RowReduction, int]:
    """The index of every reduction among the sums of a row: kinds, then widths, then tokens."""
    kinds = {each: "mass" if each.name == "sum" else each.name for each in wanted}
    single = {each: KINDS.index(kind) for each, kind in kinds.items() if kind in KINDS[:-1]}
    many = [each for name in ("near", "on") for each in wanted if each.name == name]
    return single | {each: KINDS.index("near") + k for k, each in enumerate(many)}
