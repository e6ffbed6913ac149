"""Numbers of single rows from which measures are made, many of them in one pass over a map."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate import Rows
from dsf.measures.fold import Look, real

# What compiled loops add up of every row, in their order; "near" for as many widths as are asked.
KINDS = ("mass", "negative", "energy", "surprise", "distance", "largest", "lowest", "near")


@dataclass(frozen=True)
class Tally:
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


MASS = Tally("mass", lambda rows: rows.weights.norm(p=1, dim=-1))
ENERGY = Tally("energy", lambda rows: rows.weights.abs().square().sum(dim=-1))
SURPRISE = Tally("surprise", _surprise)  # sum of |w| log |w|
DISTANCE = Tally("distance", _distance)  # sum of |w| times the lag in tokens
LARGEST = Tally("largest", lambda rows: rows.weights.abs().amax(dim=-1))
WRITTEN = Tally("written", lambda rows: rows.written.expand(rows.weights.shape[:-1]))


def negative(measure: str) -> Tally:
    """Weight of the negative entries, as a positive number."""
    return Tally("negative", lambda rows: -real(rows, measure).clamp(max=0).sum(dim=-1))


def lowest(measure: str) -> Tally:
    """The smallest entry."""
    return Tally("lowest", lambda rows: real(rows, measure).amin(dim=-1))


def near(width: int) -> Tally:
    """Absolute weight on the last ``width`` tokens, the row's own included."""

    def look(rows: Rows) -> Tensor:
        reached = (rows.read > rows.written.min() - width) & (rows.read <= rows.written.max())
        lag = rows.lag[:, reached]
        weight = rows.weights[..., reached] * ((lag >= 0) & (lag < width))
        return weight.norm(p=1, dim=-1)

    return Tally("near", look, width)


def on(token: int) -> Tally:
    """Absolute weight on one token."""

    def look(rows: Rows) -> Tensor:
        return rows.weights[..., rows.read == token].abs().sum(dim=-1)

    return Tally("on", look, token)


@dataclass(frozen=True)
class Tallied:
    """What one pass over a map found: a measure takes it in place of the map.

    Attributes:
        found: a number for every row, of every kind that was asked for.
        error: the bound that was asked for; 0 for an exact pass.
        left_out: the largest share of its absolute weight that any row can have in the entries
            that were not looked at, for every map of the batch. Certified, not estimated.
        visited: share of the entries in reach that were looked at.
    """

    found: dict[Tally, Tensor]
    error: float
    left_out: Shaped[Tensor, "*batch"] | float = 0.0
    visited: float = 1.0


class Asked:
    """Stands for a map and notes what a measure wants to know of it."""

    def __init__(self) -> None:
        self.wanted: tuple[Tally, ...] = ()


def from_pass(
    source: "Tallied | Asked", wanted: tuple[Tally, ...], measure: str
) -> tuple[Shaped[Tensor, "*batch rows"], ...]:
    """What a pass found of every row.

    Raises:
        ValueError: if the pass was made without ``measure``.
    """
    if isinstance(source, Asked):
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
