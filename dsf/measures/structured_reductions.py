"""Row reductions that never form whole rows, by the structure of the system."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
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
from dsf.measures.fold import ENTRIES
from dsf.measures.row_reductions import (
    DISTANCE,
    KINDS,
    MASS,
    Reduced,
    RowPass,
    RowReduction,
    name_of,
)
from dsf.system import System
from dsf.transition import Diagonal


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


DIAGONAL_TILE = 64


class DiagonalPass(RowPass):
    """Systems that forget alike together, a tile of rows after the other."""

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
            fading = _Fading(select(self.system, index), self.limit)
            for tile in range(begin[1] if number == begin[0] else 0, self.tiles):
                rows, left = fading.rows(tile)
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
    """What a few rows of every system have in the columns before a token, at most."""

    share: Float[Tensor, "*entry rows"]
    tokens: Float[Tensor, "*entry rows"]

    def suffices(self, limit: Limit) -> bool:
        """Whether it may be left out; never where it is nan."""
        return bool(((self.share <= limit.share) & (self.tokens <= limit.tokens)).all())


class _Fading:
    """Systems with what every tile of tokens leaves in their states, in size."""

    def __init__(self, system: System, limit: Limit) -> None:
        self.system, self.limit, self.width = system, limit, 1
        kept = held = moved = torch.zeros((), dtype=torch.float64)
        self.kept: list[Tensor] = []
        self.held: list[Tensor] = []
        self.moved: list[Tensor] = []
        for start in range(0, system.steps - DIAGONAL_TILE, DIAGONAL_TILE):
            decay, write = self._sizes(start, start + DIAGONAL_TILE)
            after = decay.flip(-2).cumprod(dim=-2).flip(-2)
            kept = after[..., 0, :]
            last = torch.ones_like(after[..., :1, :])
            faded = torch.cat([after[..., 1:, :], last], dim=-2) * write
            lag = torch.arange(DIAGONAL_TILE - 1, -1, -1, dtype=faded.dtype).unsqueeze(-1)
            moved = kept * (moved + DIAGONAL_TILE * held) + (lag * faded).sum(dim=-2)
            held = kept * held + faded.sum(dim=-2)
            self.kept.append(kept)
            self.held.append(held)
            self.moved.append(moved)

    def rows(self, tile: int) -> tuple[Rows, Float[Tensor, "*entry"]]:
        """The rows of a tile in the columns that can matter, and the share that is left out."""
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
        self.width = enough + enough // 8 + 1  # a little more: looking again costs a whole tile
        return rows, bound.share.amax(dim=-1)

    def _enough(self, tile: int, width: int, reach: Tensor, mass: Tensor, distance: Tensor) -> int:
        """How many tiles before this one had been enough."""
        low, high = 0, width
        while low < high:
            middle = (low + high) // 2
            bound = self._before(tile - middle, tile, reach, mass, distance)
            low, high = (low, middle) if bound.suffices(self.limit) else (middle + 1, high)
        return high

    def _before(
        self, first: int, tile: int, reach: Tensor, mass: Tensor, distance: Tensor
    ) -> _Bound:
        """What the columns before the tile ``first`` add to the rows of ``tile`` at most."""
        if first == 0:
            return _Bound(torch.zeros_like(mass), torch.zeros_like(mass))
        gap = torch.ones_like(self.kept[0])
        for earlier in range(first, tile):
            gap = gap * self.kept[earlier]
        held, moved = gap * self.held[first - 1], gap * self.moved[first - 1]
        rest = (reach @ held.unsqueeze(-1)).squeeze(-1)
        lag = torch.arange(reach.shape[-2], dtype=rest.dtype) + ((tile - first) * DIAGONAL_TILE + 1)
        away = (reach @ moved.unsqueeze(-1)).squeeze(-1) + lag * rest
        share = torch.where(rest == 0, 0, torch.where(mass > 0, rest / mass, inf))
        far = torch.where(mass > 0, distance / mass, 0)
        return _Bound(share, torch.where(rest == 0, 0, away / mass + share * far))

    def _sizes(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Decays and writes in size."""
        A = cast("Diagonal", self.system.A.cut(start, stop).window(0, stop - start))
        write = dense_of(cut_of(self.system.B, start, stop)).squeeze(-1)
        return A.decay.double().abs(), write.double().abs()

    def _reach(self, start: int, stop: int) -> Tensor:
        """Reads in size, times the decays from the start up to every row."""
        decay, _ = self._sizes(start, stop)
        passed = decay.cumprod(dim=-2)
        if self.system.reads_before_update:
            passed = torch.cat([torch.ones_like(passed[..., :1, :]), passed[..., :-1, :]], dim=-2)
        return passed * dense_of(cut_of(self.system.C, start, stop)).squeeze(-2).double().abs()

    def _between(self, first: int, start: int, stop: int) -> Rows:
        """Rows in the columns from the tile ``first`` on: the map of those tokens alone."""
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
    """The entries of the batch, those with the slowest states first, as their first tokens say."""
    A = cast("Diagonal", system.A.window(0, min(system.steps, DIAGONAL_TILE)))
    slowest = A.decay.abs().amax(dim=-1).mean(dim=-1)
    return slowest.reshape(-1).argsort(descending=True, stable=True)


MOST = 16  # tiles of a chunk; scores of 64 x 1024 stay in the cache

ENTRY = 0.6e-9  # seconds for an entry of one map, all measures together
LONG = 60.0  # seconds of work that are announced

logger = logging.getLogger(__name__)


class HeadPass(RowPass):
    """Every group of heads, a tile of rows after the other."""

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
            fold = _Fold(self.heads, group, self.wanted, self.limit)
            if group == 0:
                _announce(fold.far_back(), self.heads.steps, groups)
            for tile in range(begin[1] if group == begin[0] else 0, self.heads.tiles):
                rows = slice(tile * TILE, min(self.heads.steps, (tile + 1) * TILE))
                statistics, left, visited = fold.tile(tile, rows)
                for each, numbers in self.numbers.items():
                    numbers[group, :, rows] = torch.from_numpy(statistics[:, fold.place(each)])
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
        kept = {each: self.heads.in_batch(part) for each, part in self.numbers.items()}
        visited = int(self.visited.sum()) / in_reach
        return Reduced(kept, error, self.heads.in_batch(self.left), visited)


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
    """One group of heads, all its tokens prepared; gives the statistics of one tile of rows."""

    def __init__(
        self, heads: Heads, group: int, wanted: Sequence[RowReduction], limit: Limit
    ) -> None:
        from dsf.kernels.scalar_rows import suffixes
        from dsf.kernels.scalar_tile_sums import all_before

        self.peaks = any(each.name in ("energy", "largest", "lowest") for each in wanted)
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

    def place(self, each: RowReduction) -> int:
        """Where its row of the statistics is."""
        if each.name != "near":
            return KINDS.index(each.name)
        return KINDS.index("near") + self.widths.tolist().index(each.token)

    def tile(self, tile: int, rows: slice) -> tuple[np.ndarray, np.ndarray, int]:
        """Every kind of sum, for all heads and these rows; what is left out; entries visited."""
        from dsf.kernels.scalar_tile_sums import sum_tiles

        number, count = len(self.decay), rows.stop - rows.start
        state = _State(number, tile, len(self.widths))
        read = torch.nn.functional.pad(self.read[rows], (0, 0, 0, TILE - count))
        self._own(read, rows, state)
        kept = self.factor.numpy(), self.logs.numpy(), self.product
        active, visited = self._going_on(np.arange(number), rows, state, MOST), 0
        while len(active):
            last = int(state.stops[active].max())
            first = max(last - MOST, int(state.firsts[active].min()))
            parts = self._parts(self.write[first * TILE : last * TILE], read)
            spans, decays = (state.firsts, state.stops), (state.reach, state.log_reach, state.gap)
            asked = (rows.start, self.widths, self.peaks)
            tiles = sum_tiles(
                parts, first, *kept, active, *spans, *decays, *asked, state.statistics
            )
            visited += tiles * count * TILE
            active = self._going_on(active, rows, state, MOST)
        visited += number * count * (count + 1) // 2
        return state.statistics.reshape(number, -1, TILE)[..., :count], state.left, visited

    def far_back(self) -> np.ndarray:
        """About how many tokens the last rows read back, for every head; nothing is kept."""
        number, tiles = self.product.shape
        rows = slice((tiles - 1) * TILE, self.decay.shape[1])
        state = _State(number, tiles - 1, len(self.widths))
        read = torch.nn.functional.pad(self.read[rows], (0, 0, 0, tiles * TILE - rows.stop))
        self._own(read, rows, state)
        self._going_on(np.arange(number), rows, state, tiles)
        return TILE * (tiles - 1 - state.firsts)

    def _going_on(self, active: np.ndarray, rows: slice, state: "_State", most: int) -> np.ndarray:
        """The heads whose earlier tiles cannot be left out."""
        from dsf.kernels.truncation import still_open

        kept = self.product, self.mass, self.lagged
        spans, limits = (rows.start, state.stops, most), (self.limit.share, self.limit.tokens)
        found = state.statistics, active, state.firsts, state.left
        count = still_open(self.sizes[rows], state.reach, state.gap, *kept, *spans, *limits, *found)
        return active[:count]

    def _own(self, read: Tensor, rows: slice, state: "_State") -> None:
        from dsf.kernels.diagonal_tile_sums import sum_own_tile

        numbers = (self.decay, self.step, self.feedthrough)
        # one layout of memory, one compilation
        decay, step, through = (
            part[:, rows].clone(memory_format=torch.contiguous_format) for part in numbers
        )
        logs = _logs(decay), _logs(step)
        arrays = [part.numpy() for part in (decay, step, *logs, through)]
        parts = self._parts(self.write[rows], read)
        found = state.statistics, state.reach, state.log_reach
        sum_own_tile(parts, *arrays, self.before, self.widths, self.peaks, *found)

    def _parts(self, write: Tensor, read: Tensor) -> np.ndarray:
        """Scores of columns and rows as sizes, sizes times their logarithms and negative sizes."""
        from dsf.kernels.scalar_tile_sums import split_scores

        size = len(write) * TILE
        scores = self.scores[:size]
        torch.mm(write, read.mT, out=scores.view(len(write), TILE))
        parts = self.parts[: 3 * size].view(3, size).numpy()
        split_scores(scores.numpy(), *parts)
        return parts


class _State:
    """What is known of the rows of one tile while their columns are visited."""

    def __init__(self, number: int, tile: int, widths: int) -> None:
        self.statistics = np.zeros((number, (KINDS.index("near") + widths) * TILE))
        self.reach, self.log_reach = np.zeros((2, number, TILE))
        self.gap, self.left = np.ones(number), np.zeros(number)
        self.stops, self.firsts = np.full((2, number), tile)


def _logs(size: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Any number where the size is zero, which makes nothing of it."""
    return size.clamp(min=torch.finfo(size.dtype).tiny).log_()


ROWS, PANEL_ENTRIES = 64, 1 << 21  # of a panel: it has to stay in the cache


def scores_of(system: Operator) -> ExponentialRows | None:
    """The source of scores, where compiled loops may take them; else None."""
    rows = whole_rows(system)
    if not isinstance(rows, ExponentialRows):
        return None
    stored = [getattr(rows, field.name) for field in fields(rows)]
    parts = [part for part in stored if isinstance(part, Tensor)]
    real = not any(part.is_complex() for part in parts)
    return rows if real and applies(*parts, work=rows.shape.numel()) else None


class ScorePass(RowPass):
    """One map of the batch after the other, its rows a panel at a time."""

    def __init__(self, source: ExponentialRows, wanted: Sequence[RowReduction]) -> None:
        from dsf.kernels.exponential_rows import BLOCK

        self.source, self.places = source, _places(wanted)
        self.widths, self.tokens = (
            np.array([each.token for each in self.places if each.name == name], dtype=int)
            for name in ("near", "on")
        )
        *self.batch, self.steps, _, columns = source.shape
        self.entries = list(product(*map(range, self.batch)))
        self.size = max(1, min(ROWS, PANEL_ENTRIES // max(columns, 1)))
        self.panels = -(-self.steps // self.size)
        self.rows = len(self.entries) * self.steps
        shape = (len(self.entries), self.steps)
        self.numbers = {each: source.query.new_zeros(shape) for each in wanted}
        self.ahead = torch.arange(BLOCK, dtype=source.dtype).numpy()

    def blocks(self, first: int) -> Iterator[int]:
        begin = divmod(first, self.panels)
        for entry in range(begin[0], len(self.entries)):
            one = self.source.picked(self.entries[entry], torch.Size())
            for panel in range(begin[1] if entry == begin[0] else 0, self.panels):
                start, stop = panel * self.size, min(self.steps, (panel + 1) * self.size)
                statistics = self._panel(one, start, stop)
                for each, numbers in self.numbers.items():
                    numbers[entry, start:stop] = torch.from_numpy(statistics[self.places[each]])
                yield entry * self.steps + stop

    def _panel(self, one: ExponentialRows, start: int, stop: int) -> np.ndarray:
        """Every kind of sum of some rows of one map."""
        from dsf.kernels.exponential_rows import sum_exponentials

        scores, unread = one.logits(start, stop), one.unread()
        kinds = len(KINDS) - 1 + len(self.widths) + len(self.tokens)
        statistics = np.empty((kinds, stop - start))
        sum_exponentials(
            scores.contiguous().numpy(),
            scores.amax(dim=-1).numpy(),
            -np.inf if unread is None else float(unread),
            self.ahead,
            start,
            one.is_causal,
            one.shape[-1],
            self.widths,
            self.tokens,
            statistics,
        )
        return statistics

    def found(self) -> dict[str, Tensor]:
        return {name_of(each): numbers for each, numbers in self.numbers.items()}

    def resume(self, found: dict[str, Tensor]) -> None:
        for each, numbers in self.numbers.items():
            numbers.copy_(found[name_of(each)])

    def reduced(self, error: float) -> Reduced:
        shape = (*self.batch, self.steps)
        return Reduced({each: part.view(shape) for each, part in self.numbers.items()}, error)


def _places(wanted: Sequence[RowReduction]) -> dict[RowReduction, int]:
    """Where each stands among the sums of a row: kinds, then widths, then tokens."""
    single = {each: KINDS.index(each.name) for each in wanted if each.name not in ("near", "on")}
    many = [each for name in ("near", "on") for each in wanted if each.name == name]
    return single | {each: KINDS.index("near") + k for k, each in enumerate(many)}
