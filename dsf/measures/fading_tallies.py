"""Tallies of diagonal systems from the columns that can matter, never from whole rows.

What the columns before a token can add to a row is known before they are looked at: the states they
leave, in size, faded mode by mode on the way to the row, and read in size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.algebra import select
from dsf.coefficient import cut_of, dense_of
from dsf.evaluate import Rows
from dsf.evaluate.rows import blocks_between
from dsf.measures.fold import ENTRIES
from dsf.measures.limits import Limit, limit
from dsf.measures.tallies import DISTANCE, MASS, Tallied, Tally
from dsf.measures.walks import Walk, name_of
from dsf.system import System
from dsf.transition import Diagonal

TILE = 64


class FadingWalk(Walk):
    """Systems that forget alike together, a tile of rows after the other."""

    def __init__(self, system: System, wanted: Sequence[Tally], *, error: float) -> None:
        entries, self.steps = system.batch.numel(), system.steps
        self.system, self.wanted, self.limit = system, wanted, limit(error, self.steps)
        together = max(1, ENTRIES // (TILE * self.steps))
        self.groups = _by_decay(system).split(together)
        self.tiles = -(-self.steps // TILE)
        self.rows = len(self.groups) * self.steps
        self.numbers: dict[Tally, Tensor] = {}
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
                span = slice(tile * TILE, tile * TILE + len(rows.written))
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

    def go_on(self, found: dict[str, Tensor]) -> None:
        self.left, self.visited = found["left"], found["visited"]
        self.numbers = {each: found[name_of(each)] for each in self.wanted}

    def tallied(self, error: float) -> Tallied:
        batch, in_reach = self.system.batch, len(self.left) * self.steps * (self.steps + 1) / 2
        found = {each: part.view(*batch, self.steps) for each, part in self.numbers.items()}
        return Tallied(found, error, self.left.view(batch), int(self.visited.sum()) / in_reach)


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
        for start in range(0, system.steps - TILE, TILE):
            decay, write = self._sizes(start, start + TILE)
            after = decay.flip(-2).cumprod(dim=-2).flip(-2)
            kept = after[..., 0, :]
            last = torch.ones_like(after[..., :1, :])
            faded = torch.cat([after[..., 1:, :], last], dim=-2) * write
            lag = torch.arange(TILE - 1, -1, -1, dtype=faded.dtype).unsqueeze(-1)
            moved = kept * (moved + TILE * held) + (lag * faded).sum(dim=-2)
            held = kept * held + faded.sum(dim=-2)
            self.kept.append(kept)
            self.held.append(held)
            self.moved.append(moved)

    def rows(self, tile: int) -> tuple[Rows, Float[Tensor, "*entry"]]:
        """The rows of a tile in the columns that can matter, and the share that is left out."""
        start, stop = tile * TILE, min(self.system.steps, (tile + 1) * TILE)
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
        lag = torch.arange(reach.shape[-2], dtype=rest.dtype) + ((tile - first) * TILE + 1)
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
        begin, whole = first * TILE, self.system
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
    A = cast("Diagonal", system.A.window(0, min(system.steps, TILE)))
    slowest = A.decay.abs().amax(dim=-1).mean(dim=-1)
    return slowest.reshape(-1).argsort(descending=True, stable=True)
