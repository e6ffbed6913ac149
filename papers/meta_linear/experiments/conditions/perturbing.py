"""What one token does to a map, and the conditions C0 to C3 of the paper that follow from it.

A token's coefficients are replaced and two maps compared. Token s may act as a query (its own row),
as a key (its own column) or as a decay (how much of the tokens before it reaches the rows after
it). Rows are compared up to their scale, since the unified form is normalised behind the map and
knows no denominators; state coordinates play no part.
"""

from collections.abc import Callable, Collection
from copy import deepcopy
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Shaped
from torch import Tensor

import dsf
from dsf import System, attention_map
from dsf.layers import Layer
from dsf.mixers import Mixer

STEPS, AT, MODEL = 24, 12, 8
FEWEST = 2
REL_TOL = 1e-6
TOKEN_AXES = {"time", "read"}
Blocks = Shaped[Tensor, "batch time output time input"]
Draw = Callable[[int], Mixer]
"""From a number of tokens to a mixer."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Which part of the map moved with the coefficients of one token.

    Attributes:
        query: its own row, in a way that no decay of the token explains.
        key: its own column, below the diagonal.
        decay: columns before it in rows after it, while entries between two later tokens stay.
        elsewhere: entries between two later tokens, which none of the three can move.
    """

    query: bool
    key: bool
    decay: bool
    elsewhere: bool


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What the perturbation of a mixer found, and the paper's rules applied to it.

    The rules are an assumption here. C0: the state is bounded. C1: it can drop what it holds, by a
    decay that follows the input, or need not, since its memory grows. C2: it can reproduce softmax
    maps, by queries and either a decay that follows the input or keys without any decay. C3: it
    does so with the fewest things computed, two.

    Attributes:
        query, key, decay, elsewhere: as of :class:`Changes`, for any of the computed fields.
        bounded: the state does not grow with the length.
        ordered: exchanging two tokens does more than exchange their columns: there is a decay.
        computed: fields that follow the input, without the value.
    """

    query: bool
    key: bool
    decay: bool
    elsewhere: bool
    bounded: bool
    ordered: bool
    computed: tuple[str, ...]

    @property
    def letters(self) -> str:
        """C0 to C3 as y or n, such as ``yyyn``."""
        dynamic = self.decay or not self.bounded
        static = self.query and (self.decay or (self.key and not self.ordered))
        fewest = self.bounded and dynamic and static and len(self.computed) == FEWEST
        return "".join("y" if met else "n" for met in (self.bounded, dynamic, static, fewest))


def classify(draw: Draw, computed: Collection[str]) -> Conditions:
    """Give one token another one's coefficients, one field after the other, and read the map.

    Args:
        computed: the fields of the mixer that follow the input.
    """
    mixer = draw(STEPS)
    moved = [changes(mixer, name, at=AT) for name in computed]
    systems = [draw(steps).system() for steps in (STEPS, 2 * STEPS)]
    states = {each.state_size if isinstance(each, System) else None for each in systems}
    return Conditions(
        query=any(each.query for each in moved),
        key=any(each.key for each in moved),
        decay=any(each.decay for each in moved),
        elsewhere=any(each.elsewhere for each in moved),
        bounded=len(states) == 1,
        ordered=order_matters(mixer, computed, at=AT),
        computed=tuple(computed),
    )


def drawn(mixer: type[Mixer]) -> Draw:
    """Return the library's random instance of ``mixer``."""
    return lambda steps: mixer.draw(torch.Generator().manual_seed(0), steps=steps)


def through(layer: Layer) -> Draw:
    """Return what ``layer`` makes of random tokens, with random weights."""
    alive = random_weights(layer)
    return lambda steps: alive.mixer(_tokens(steps))


def follows_input(layer: Layer) -> tuple[str, ...]:
    """Return the fields of a layer's mixer that change when one input token does."""
    alive, x = random_weights(layer), _tokens(STEPS)
    other = x.clone()
    other[:, AT] = x[:, 0]
    before, after = alive.mixer(x), alive.mixer(other)
    return tuple(
        name
        for name in token_fields(before)
        if not torch.equal(getattr(before, name), getattr(after, name))
    )


def random_weights(layer: Layer) -> Layer:
    """Return a copy in float64 with random weights."""
    rng = torch.Generator().manual_seed(0)
    alive = deepcopy(layer).double().requires_grad_(False)
    for weight in alive.parameters():
        weight.copy_(torch.randn(weight.shape, generator=rng, dtype=weight.dtype) / 2)
    return alive


def _tokens(steps: int) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(1, steps, MODEL, generator=rng, dtype=torch.float64)


def token_fields(mixer: Mixer) -> tuple[str, ...]:
    """Return the tensors with something for every token, without what is mixed."""
    return tuple(name for name in _token_axes(mixer) if name != "value")


def _token_axes(mixer: Mixer) -> dict[str, int]:
    """Where the token axis is, counted from the end, of every real field that has one."""
    found = {}
    for field in fields(mixer):
        part = getattr(mixer, field.name)
        for annotation in getattr(field.type, "__args__", (field.type,)):
            names = getattr(annotation, "dim_str", "").split()
            here = [k for k, name in enumerate(names) if name in TOKEN_AXES]
            if isinstance(part, Tensor) and part.is_floating_point() and len(here) == 1:
                found[field.name] = here[0] - len(names)
    return found


def changes(mixer: Mixer, name: str, *, at: int) -> Changes:
    """Let token ``at`` have in the field ``name`` what its neighbour before it has.

    A field called ``inputs`` drives a trajectory; there the coefficients of the one token are
    replaced, and later ones stay.
    """
    order = list(range(mixer.system().steps))
    order[at] = at - 1
    system, other = mixer.system(), _reordered(mixer, (name,), order).system()
    if name == "inputs":
        other = _spliced(system, other, at)
    return compared(_blocks(system), _blocks(other), at=at)


def order_matters(mixer: Mixer, names: Collection[str], *, at: int) -> bool:
    """Return whether later rows notice that token ``at`` and the one before it changed places."""
    order = list(range(mixer.system().steps))
    order[at - 1], order[at] = at, at - 1
    before, after = (
        _blocks(each.system())[:, at + 1 :] for each in (mixer, _reordered(mixer, names, order))
    )
    moved = before[:, :, :, order]
    return _apart(moved, _nearest(moved, after, axes=2))


def compared(before: Blocks, after: Blocks, *, at: int) -> Changes:
    """Return which parts of the map differ, rows compared up to their scale.

    The scale of a row is read off its entries between later tokens.
    """
    early, late = before[:, at + 1 :], after[:, at + 1 :]
    late = _scale(early[:, :, :, at + 1 :], late[:, :, :, at + 1 :], axes=2) * late
    own, past, later = (
        _apart(early[:, :, :, columns], late[:, :, :, columns])
        for columns in (slice(at, at + 1), slice(0, at), slice(at + 1, None))
    )
    row, other = (each[:, at, :, :at] for each in (before, after))
    turned = _turned(row, other, early[:, :, :, :at], late[:, :, :, :at])
    return Changes(query=turned, key=own, decay=past and not later, elsewhere=later)


def _turned(row: Tensor, other: Tensor, early: Tensor, late: Tensor) -> bool:
    """Whether a row has another direction, and not the one that later rows predict.

    What a token reads of the past is a combination of what later tokens read, as long as these
    outnumber the states. That combination does not notice another decay of the token.
    """
    if not _apart(row, _nearest(row, other, axes=1)):
        return False
    wanted, found = (part.flatten(2) for part in (row, other))
    known, now = (part.flatten(1, 2).flatten(2) for part in (early, late))
    solved = torch.linalg.lstsq(known.mT, wanted.mT, rcond=1e-10, driver="gelsd")
    weights = solved.solution.mT
    if _apart(wanted, weights @ known):
        return True
    return _apart(found, _nearest(found, weights @ now, axes=1))


def _scale(wanted: Tensor, given: Tensor, *, axes: int) -> Tensor:
    """What to multiply ``given`` by to be nearest, one number for every entry of its first axes."""
    inner = tuple(range(axes, wanted.ndim))
    size = given.square().sum(dim=inner, keepdim=True)
    return (wanted * given).sum(dim=inner, keepdim=True) / size.where(size > 0, 1)


def _nearest(wanted: Tensor, given: Tensor, *, axes: int) -> Tensor:
    return _scale(wanted, given, axes=axes) * given


def _apart(one: Tensor, two: Tensor) -> bool:
    return bool(((one - two).abs() > REL_TOL * one.abs().max()).any())


def _blocks(system: System) -> Blocks:
    """The map, its rows and columns sorted by token."""
    size = (-1, system.steps, system.output_size, system.steps, system.input_size)
    return attention_map(system).reshape(size)


def _reordered(mixer: Mixer, names: Collection[str], order: list[int]) -> Mixer:
    """``mixer`` with the tokens of the fields ``names`` taken in another order."""
    places, taken = _token_axes(mixer), torch.tensor(order)
    parts = {name: getattr(mixer, name).index_select(places[name], taken) for name in names}
    return replace(mixer, **parts)


def _spliced(before: System, after: System, at: int) -> System:
    """``before`` with the coefficients that token ``at`` has in ``after``."""
    here = (torch.arange(before.steps) == at)[:, None, None]
    old, new = before.window(0, before.steps), after.window(0, after.steps)
    B, C, D = (
        torch.where(here, getattr(new, name), getattr(old, name))
        for name in ("B", "C", "feedthrough")
    )
    A = dsf.systems.transition.Dense(torch.where(here, new.A.dense(), old.A.dense()))
    return replace(old, A=A, B=B, C=C, D=D)
