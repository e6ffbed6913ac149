"""Numbers of single rows from which measures are made, many of them in one pass over a map."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate import MapOrSystem, Rows
from dsf.measures.fold import Look, blocks, real

# What compiled loops add up of every row, in their order; "near" for as many widths as are asked.
KINDS = ("mass", "negative", "energy", "surprise", "distance", "largest", "lowest", "near")


@dataclass(frozen=True)
class RowReduction:
    """One number for every row: what ``look`` says of the rows, by whatever way is fastest."""

    name: str
    look: Look = field(compare=False, repr=False)
    token: int = 0  # a width in tokens, or which token


def _surprise(rows: Rows) -> Tensor:
    weight = rows.weights.abs()
    return (weight * torch.where(weight > 0, weight, 1).log()).sum(dim=-1)


def _distance(rows: Rows) -> Tensor:
    weight = rows.weights.abs()
    return (weight * rows.lag.abs().to(weight.dtype)).sum(dim=-1)


MASS = RowReduction("mass", lambda rows: rows.weights.norm(p=1, dim=-1))
ENERGY = RowReduction("energy", lambda rows: rows.weights.abs().square().sum(dim=-1))
SURPRISE = RowReduction("surprise", _surprise)  # sum of |w| log |w|
DISTANCE = RowReduction("distance", _distance)  # sum of |w| times the lag in tokens
LARGEST = RowReduction("largest", lambda rows: rows.weights.abs().amax(dim=-1))
WRITTEN = RowReduction("written", lambda rows: rows.written.expand(rows.weights.shape[:-1]))


def negative(measure: str) -> RowReduction:
    """Weight of the negative entries, as a positive number."""
    return RowReduction("negative", lambda rows: -real(rows, measure).clamp(max=0).sum(dim=-1))


def lowest(measure: str) -> RowReduction:
    """The smallest entry."""
    return RowReduction("lowest", lambda rows: real(rows, measure).amin(dim=-1))


def near(width: int) -> RowReduction:
    """Absolute weight on the last ``width`` tokens, the row's own included."""

    def look(rows: Rows) -> Tensor:
        reached = (rows.read > rows.written.min() - width) & (rows.read <= rows.written.max())
        lag = rows.lag[:, reached]
        weight = rows.weights[..., reached] * ((lag >= 0) & (lag < width))
        return weight.norm(p=1, dim=-1)

    return RowReduction("near", look, width)


def on(token: int) -> RowReduction:
    """Absolute weight on one token."""

    def look(rows: Rows) -> Tensor:
        return rows.weights[..., rows.read == token].abs().sum(dim=-1)

    return RowReduction("on", look, token)


@dataclass(frozen=True)
class Reduced:
    """What one pass over a map found: a measure takes it in place of the map.

    Attributes:
        found: a number for every row, of every kind that was asked for.
        error: the bound that was asked for; 0 for an exact pass.
        left_out: the largest share of its absolute weight that any row can have in the entries
            that were not looked at, for every map of the batch. Certified, not estimated.
        visited: share of the entries in reach that were looked at.
    """

    found: dict[RowReduction, Tensor]
    error: float
    left_out: Shaped[Tensor, "*batch"] | float = 0.0
    visited: float = 1.0


class Requested:
    """Stands for a map and notes what a measure wants to know of it."""

    def __init__(self) -> None:
        self.wanted: tuple[RowReduction, ...] = ()


def from_pass(
    source: "Reduced | Requested", wanted: tuple[RowReduction, ...], measure: str
) -> tuple[Shaped[Tensor, "*batch rows"], ...]:
    """What a pass found of every row.

    Raises:
        ValueError: if the pass was made without ``measure``.
    """
    if isinstance(source, Requested):
        source.wanted += wanted
        return tuple(torch.ones(1) for _ in wanted)
    missing = [each.name for each in wanted if each not in source.found]
    if missing:
        names = "', '".join(missing)
        raise ValueError(
            f"{measure}: needs '{names}' of every row, which this pass did not "
            f"collect. Name every measure when the pass is made: measures.streamed(system, "
            f"measures.{measure})."
        )
    return tuple(source.found[each] for each in wanted)


Progress = Callable[[int, int], None]


class RowPass(ABC):
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
    def resume(self, found: dict[str, Tensor]) -> None:
        """Take up what another pass had found when it was left."""

    @abstractmethod
    def reduced(self, error: float) -> Reduced:
        """The numbers of all rows, after the last block."""


def name_of(reduction: RowReduction) -> str:
    """Under which its numbers are kept."""
    return f"{reduction.name} {reduction.token}"


class WholeRowPass(RowPass):
    """The rows themselves, of any map: those no loop knows, and those gradients have to reach."""

    def __init__(self, source: MapOrSystem, wanted: Sequence[RowReduction]) -> None:
        self.source, self.done = source, 0
        self.parts: dict[RowReduction, list[Tensor]] = {each: [] for each in wanted}
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

    def resume(self, found: dict[str, Tensor]) -> None:
        self.done = next(iter(found.values())).shape[-1]
        self.parts = {each: [found[name_of(each)]] for each in self.parts}

    def reduced(self, error: float) -> Reduced:
        return Reduced(self._joined(), error)

    def _joined(self) -> dict[RowReduction, Tensor]:
        return {each: torch.cat(part, dim=-1) for each, part in self.parts.items()}
