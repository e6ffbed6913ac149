"""Row reductions of diagonal systems, so that whole rows are never computed.

The columns of a tile of rows are computed from the diagonal back until a bound on all earlier
columns is small enough.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.evaluate import Rows
from dsf.evaluate.rows import blocks_between
from dsf.measures.fold import ENTRIES
from dsf.measures.head_pass import Limit, limit
from dsf.measures.row_reductions import DISTANCE, MASS, Reduced, RowPass, RowReduction
from dsf.systems.algebra import select
from dsf.systems.coefficient import cut_of, dense_of
from dsf.systems.system import System
from dsf.systems.transition import Diagonal

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

    def blocks(self) -> Iterator[int]:
        for number, group in enumerate(self.groups):
            index = torch.unravel_index(group, self.system.batch) if self.system.batch else ()
            truncated = _TruncatedRows(select(self.system, index), self.limit)
            for tile in range(self.tiles):
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
