"""Which input of a module holds its values, and along which axis, where no projection tells.

A module that is given queries, keys and values, or the numbers of a scan, is affine from its values
to its response, and exchanging one of their entries moves others along the axis of tokens alone:
along the axes of samples, heads and channels none. Along tokens only later ones move, or the map is
the same for several channels, which come behind. Neither holds of queries, whose channels alone are
mixed, nor of the input of a linear layer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dsf.inspection.causal.coordinates import Coordinates, numbered
from dsf.inspection.probing.driven_tape import Ports
from dsf.inspection.probing.layouts import Layout, layout_of
from dsf.inspection.probing.repeated_call import Given
from dsf.inspection.probing.tape import GIVEN, OUTPUT, Exchanging, Record, Spot, Tape
from dsf.inspection.probing.unit_values import PAIRED, random_values

FEWEST_AXES = 3
"""Samples or heads, tokens and channels."""


@dataclass(frozen=True, eq=False)
class Told:
    """An input that holds the values, and the layouts of all inputs and of the output."""

    ports: Ports
    record: Record


def value_among(
    tape: Tape,
    given: Given,
    rounding: float,
    names: list[str],
    *,
    wanted: str | None = None,
    fewest: int = 1,
) -> Told | None:
    """The input that holds the values; None where there is none.

    Args:
        given: the coordinates of the inputs.
        rounding: the largest relative difference taken for rounding.
        names: of the arguments that they are.
        wanted: the name of the only one that is looked at.
        fewest: the least number of inputs with axes for tokens.
    """
    places = [place for place, found in enumerate(given) if _is_plain(found)]
    if len(places) < fewest:
        return None
    plain = tape.run(Exchanging())
    if not plain.is_floating_point():
        return None
    looked_at = [place for place in places if wanted in {None, names[place]}]
    found = {place: _found(tape, place, plain, rounding) for place in looked_at}
    values = {place: one for place, one in found.items() if one is not None}
    if not values:
        return None
    best = min(values, key=lambda place: values[place].rank)
    inputs = tuple(values[best].columns if k == best else None for k in range(len(given)))
    words = f"({names[best]})", "the output"
    ports = Ports(Spot(GIVEN, best), frozenset(), OUTPUT, words)
    return Told(ports, Record(given=inputs, output=values[best].rows))


def _is_plain(found: Coordinates | None) -> bool:
    """Whether a tensor is an input as it came: its axes are those of a source of its own."""
    if found is None or found.columns or len(found.shape) < FEWEST_AXES:
        return False
    axes = list(found.planes)
    return (
        {axis.source.kind for axis in axes} == {"input"}
        and len({axis.source for axis in axes}) == 1
        and [axis.number for axis in axes] == list(range(len(found.shape)))
        and [axis.size for axis in axes] == list(found.shape)
    )


@dataclass(frozen=True, eq=False)
class _Values:
    """An input that may hold values.

    Attributes:
        columns, rows: the layouts of the input and of the output.
        is_one_sided: whether tokens move later ones only, or earlier ones.
    """

    columns: Layout
    rows: Layout
    is_one_sided: bool

    @property
    def rank(self) -> tuple[bool, bool]:
        """Smaller is better: an initial state has not the tokens of the output."""
        return self.columns is not self.rows, not self.is_one_sided


def _found(tape: Tape, place: int, plain: Tensor, rounding: float) -> _Values | None:
    """An input if it may hold values."""
    value = tape.tensors[place]
    if value.ndim != plain.ndim or not value.is_floating_point():
        return None
    other = [axis for axis in range(value.ndim) if value.shape[axis] != plain.shape[axis]]
    trial = _Trial(tape, place, plain, rounding)
    if len(other) > 1 or not trial.is_affine():
        return None
    reach = {axis: trial.reach(axis) for axis in range(value.ndim) if axis not in other}
    mixed = [*other, *(axis for axis, moves in reach.items() if any(moves))]
    if len(mixed) != 1:
        return None
    (tokens,) = mixed
    is_one_sided = not other and reach[tokens][0] != reach[tokens][1]
    may_be_linear = tokens == value.ndim - 1  # a linear layer mixes channels, the same for all
    columns, rows = _layout(value, tokens), _layout(plain, tokens)
    if columns is None or rows is None:
        return None
    if not is_one_sided and (may_be_linear or not trial.is_shared(tokens)):
        return None
    return _Values(columns, rows if other else columns, is_one_sided)


class _Trial:
    """How the output moves when an input is exchanged."""

    def __init__(self, tape: Tape, place: int, plain: Tensor, rounding: float):
        self._tape, self._place, self._plain = tape, place, plain
        self._step = random_values(tape.tensors[place], seed=0)
        self._rounding, self._limit = rounding, rounding * plain.abs().max()

    def _moved(self, by: Tensor) -> Tensor:
        mode = Exchanging(Spot(GIVEN, self._place), lambda old: old + by.to(old))
        return self._tape.run(mode) - self._plain

    def is_affine(self) -> bool:
        """Whether the output is moved, and by as many times as much as the input is."""
        first = self._moved(self._step)
        size = first.abs().max()
        bent = (self._moved(-PAIRED * self._step) + PAIRED * first).abs().max()
        return bool(size > self._limit) and bool(bent <= PAIRED * self._rounding * size)

    def reach(self, axis: int) -> tuple[bool, bool]:
        """Whether the first entry along an axis moves others, and whether the last does."""
        found = []
        for entry in (0, -1):
            alone = torch.zeros_like(self._step)
            alone.select(axis, entry).copy_(self._step.select(axis, entry))
            change = self._moved(alone)
            change.select(axis, entry).zero_()
            found.append(bool((change.abs() > self._limit).any()))
        return found[0], found[1]

    def is_shared(self, tokens: int) -> bool:
        """Whether equal numbers along an axis beside that of tokens are answered by equal ones."""
        for axis, size in enumerate(self._step.shape):
            if axis == tokens or size == 1:
                continue
            alike = self._moved(self._step.narrow(axis, 0, 1).expand_as(self._step))
            if bool(((alike - alike.narrow(axis, 0, 1)).abs() <= self._limit).all()):
                return True
        return False


def _layout(tensor: Tensor, tokens: int) -> Layout | None:
    """Of the axes beside that of tokens the first holds samples, the others heads and channels."""
    found = numbered(tensor, "values")
    axes = list(found.planes)
    return layout_of(found, frozenset({axes[tokens]}), frozenset(axes))
