"""What one token does to the map: the token's coefficients are replaced and two maps compared.

Token s may act as a query (its own row), as a key (its own column) or as a decay (how much of the
tokens before it reaches the rows after it). Rows are compared up to their scale, since the unified
form is normalised behind the map and knows no denominators; state coordinates play no part.
"""

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from typing import cast

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate import attention_map
from dsf.mixers import Mixer
from dsf.systems.system import System
from dsf.systems.transition import Dense

TOKEN_AXES = {"time", "read"}
TOLERANCE = 1e-6
Blocks = Shaped[Tensor, "batch time output time input"]


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


def token_fields(mixer: Mixer) -> tuple[str, ...]:
    """The tensors with something for every token, without what is mixed."""
    return tuple(name for name in _token_axes(mixer) if name != "value")


def changes(mixer: Mixer, name: str, *, at: int) -> Changes:
    """Let token ``at`` have in the field ``name`` what its neighbour before it has.

    A field called ``inputs`` drives a trajectory; there the coefficients of the one token are
    replaced, and later ones stay.
    """
    order = list(range(mixer.system().steps))
    order[at] = at - 1
    system, other = mixer.system(), _reordered(mixer, (name,), order).system()
    if name == "inputs":
        other = _spliced(cast(System, system), cast(System, other), at)
    return compared(_blocks(system), _blocks(other), at=at)


def order_matters(mixer: Mixer, names: Collection[str], *, at: int) -> bool:
    """Whether later rows notice that token ``at`` and the one before it changed places."""
    order = list(range(mixer.system().steps))
    order[at - 1], order[at] = at, at - 1
    before, after = (
        _blocks(each.system())[:, at + 1 :] for each in (mixer, _reordered(mixer, names, order))
    )
    moved = before[:, :, :, order]
    return _apart(moved, _nearest(moved, after, axes=2))


def compared(before: Blocks, after: Blocks, *, at: int) -> Changes:
    """Which parts of the map differ, rows compared up to their scale.

    The scale of a row is read off its entries between later tokens.
    """
    early, late = before[:, at + 1 :], after[:, at + 1 :]
    scale = _scale(early[:, :, :, at + 1 :], late[:, :, :, at + 1 :], axes=2)
    late = scale * late
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
    return bool(((one - two).abs() > TOLERANCE * one.abs().max()).any())


def _blocks(system: object) -> Blocks:
    """The map, its rows and columns sorted by token."""
    known = cast(System, system)
    map = attention_map(known)
    return map.reshape(-1, known.steps, known.output_size, known.steps, known.input_size)


def _reordered(mixer: Mixer, names: Collection[str], order: list[int]) -> Mixer:
    """``mixer`` with the tokens of the fields ``names`` taken in another order."""
    places = _token_axes(mixer)
    taken = torch.tensor(order)
    return replace(
        mixer, **{name: getattr(mixer, name).index_select(places[name], taken) for name in names}
    )


def _spliced(before: System, after: System, at: int) -> System:
    """``before`` with the coefficients that token ``at`` has in ``after``."""
    here = (torch.arange(before.steps) == at)[:, None, None]
    old, new = before.window(0, before.steps), after.window(0, after.steps)
    pairs = (
        (old.A.dense(), new.A.dense()),
        (old.B, new.B),
        (old.C, new.C),
        (old.feedthrough, new.feedthrough),
    )
    A, B, C, D = (
        torch.where(here, cast(Tensor, theirs), cast(Tensor, ours)) for ours, theirs in pairs
    )
    return replace(old, A=Dense(A), B=B, C=C, D=D)


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
