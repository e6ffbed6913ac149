"""Going through a map block of rows by block of rows, noting numbers of every row.

A walk can be left between any two blocks: what it has found so far is a few tensors, and a walk
that is given them goes on from there to the same numbers.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from dsf.evaluate import MapOrSystem
from dsf.measures.fold import blocks
from dsf.measures.tallies import Tallied, Tally

Progress = Callable[[int, int], None]


class Walk(ABC):
    """A map on its way through.

    Attributes:
        rows: how many rows there are, those of all parts of the batch that come one after the
            other; None where it is not known.
    """

    rows: int | None

    @abstractmethod
    def blocks(self, first: int) -> Iterator[int]:
        """Go through the blocks from ``first`` on; after each, how many rows are done in all."""

    @abstractmethod
    def found(self) -> dict[str, Tensor]:
        """All that is known so far, by name."""

    @abstractmethod
    def go_on(self, found: dict[str, Tensor]) -> None:
        """Take up what another walk had found when it was left."""

    @abstractmethod
    def tallied(self, error: float) -> Tallied:
        """The numbers of all rows, after the last block."""


def name_of(tally: Tally) -> str:
    """Under which its numbers are kept."""
    return f"{tally.name} {tally.token}"


class RowWalk(Walk):
    """The rows themselves, of any map: those no loop knows, and those gradients have to reach."""

    def __init__(self, source: MapOrSystem, wanted: Sequence[Tally]) -> None:
        self.source, self.done = source, 0
        self.parts: dict[Tally, list[Tensor]] = {each: [] for each in wanted}
        steps = source.shape[-1] if isinstance(source, Tensor) else getattr(source, "steps", None)
        self.rows = None if steps is None else steps * getattr(source, "output_size", 1)

    def blocks(self, first: int) -> Iterator[int]:
        for rows in islice(blocks(self.source), first, None):
            for each, part in self.parts.items():
                part.append(each.look(rows))
            self.done += rows.weights.shape[-2]
            yield self.done

    def found(self) -> dict[str, Tensor]:
        return {name_of(each): part for each, part in self._joined().items()}

    def go_on(self, found: dict[str, Tensor]) -> None:
        self.done = next(iter(found.values())).shape[-1]
        self.parts = {each: [found[name_of(each)]] for each in self.parts}

    def tallied(self, error: float) -> Tallied:
        return Tallied(self._joined(), error)

    def _joined(self) -> dict[Tally, Tensor]:
        return {each: torch.cat(part, dim=-1) for each, part in self.parts.items()}
