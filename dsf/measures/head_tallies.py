"""Tallies of maps with one decay a token, from tiles that stay in the cache, never from a map.

Columns are visited backwards. What they can add at most is known before they are looked at, from
the sizes of reads and writes and the decays between; a head stops where that is little enough.
"""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.evaluate.heads import TILE, Heads
from dsf.measures.limits import Limit, limit
from dsf.measures.tallies import KINDS, Tallied, Tally
from dsf.measures.walks import Walk, name_of

MOST = 16  # tiles of a chunk; scores of 64 x 1024 stay in the cache

ENTRY = 0.6e-9  # seconds for an entry of one map, all measures together
LONG = 60.0  # seconds of work that are announced

logger = logging.getLogger(__name__)


class HeadWalk(Walk):
    """Every group of heads, a tile of rows after the other."""

    def __init__(self, heads: Heads, wanted: Sequence[Tally], *, error: float) -> None:
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
                tally, left, visited = fold.tile(tile, rows)
                for each, numbers in self.numbers.items():
                    numbers[group, :, rows] = torch.from_numpy(tally[:, fold.place(each)])
                self.left[group] = torch.maximum(self.left[group], torch.from_numpy(left))
                self.visited[group] += visited
                yield group * self.heads.steps + rows.stop

    def found(self) -> dict[str, Tensor]:
        numbers = {name_of(each): part for each, part in self.numbers.items()}
        return numbers | {"left": self.left, "visited": self.visited}

    def go_on(self, found: dict[str, Tensor]) -> None:
        self.left, self.visited = found["left"], found["visited"]
        self.numbers = {each: found[name_of(each)] for each in self.wanted}

    def tallied(self, error: float) -> Tallied:
        groups, number, steps = self.heads.decay.shape
        in_reach = groups * number * steps * (steps + 1) / 2
        kept = {each: self.heads.in_batch(part) for each, part in self.numbers.items()}
        visited = int(self.visited.sum()) / in_reach
        return Tallied(kept, error, self.heads.in_batch(self.left), visited)


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

    def place(self, each: Tally) -> int:
        """Where its row of the tallies is."""
        if each.name != "near":
            return KINDS.index(each.name)
        return KINDS.index("near") + self.widths.tolist().index(each.token)

    def tile(self, tile: int, rows: slice) -> tuple[np.ndarray, np.ndarray, int]:
        """Every kind of sum, for all heads and these rows; what is left out; entries visited."""
        from dsf.kernels.tallying import tally_tiles

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
            tiles = tally_tiles(parts, first, *kept, active, *spans, *decays, *asked, state.tally)
            visited += tiles * count * TILE
            active = self._going_on(active, rows, state, MOST)
        visited += number * count * (count + 1) // 2
        return state.tally.reshape(number, -1, TILE)[..., :count], state.left, visited

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
        from dsf.kernels.stopping import going_on

        kept = self.product, self.mass, self.lagged
        spans, limits = (rows.start, state.stops, most), (self.limit.share, self.limit.tokens)
        found = state.tally, active, state.firsts, state.left
        count = going_on(self.sizes[rows], state.reach, state.gap, *kept, *spans, *limits, *found)
        return active[:count]

    def _own(self, read: Tensor, rows: slice, state: "_State") -> None:
        from dsf.kernels.own_tiles import tally_own

        numbers = (self.decay, self.step, self.feedthrough)
        # one layout of memory, one compilation
        decay, step, through = (
            part[:, rows].clone(memory_format=torch.contiguous_format) for part in numbers
        )
        logs = _logs(decay), _logs(step)
        arrays = [part.numpy() for part in (decay, step, *logs, through)]
        parts = self._parts(self.write[rows], read)
        found = state.tally, state.reach, state.log_reach
        tally_own(parts, *arrays, self.before, self.widths, self.peaks, *found)

    def _parts(self, write: Tensor, read: Tensor) -> np.ndarray:
        """Scores of columns and rows as sizes, sizes times their logarithms and negative sizes."""
        from dsf.kernels.tallying import split_scores

        size = len(write) * TILE
        scores = self.scores[:size]
        torch.mm(write, read.mT, out=scores.view(len(write), TILE))
        parts = self.parts[: 3 * size].view(3, size).numpy()
        split_scores(scores.numpy(), *parts)
        return parts


class _State:
    """What is known of the rows of one tile while their columns are visited."""

    def __init__(self, number: int, tile: int, widths: int) -> None:
        self.tally = np.zeros((number, (KINDS.index("near") + widths) * TILE))
        self.reach, self.log_reach = np.zeros((2, number, TILE))
        self.gap, self.left = np.ones(number), np.zeros(number)
        self.stops, self.firsts = np.full((2, number), tile)


def _logs(size: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Any number where the size is zero, which makes nothing of it."""
    return size.clamp(min=torch.finfo(size.dtype).tiny).log_()
