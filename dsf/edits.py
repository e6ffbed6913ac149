"""Edits of a token mixer: what is changed in its map, its values, its state or its response.

An edit is plain data: it is printed as it is written, and ``edit.to_json()`` and ``from_json`` give
it a form that a file can hold. ``dsf.intervene`` applies edits while the model runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = [
    "Ablate",
    "Cut",
    "Edit",
    "Forget",
    "MapFrom",
    "Mean",
    "Negative",
    "Reduce",
    "Scale",
    "Sink",
    "StateFrom",
    "ValueFrom",
    "Window",
    "from_json",
]

Chosen = int | str | slice | Sequence[int | str | slice] | None
"""Numbers, names, patterns and slices, as ``dsf.inspect(layers=..., heads=...)`` takes them."""
Tokens = int | slice | range | list[int] | tuple[int, ...] | None
Source = Any
"""Another run: its inspection, or the name under which ``intervene(sources=...)`` has it."""


@dataclass(frozen=True, repr=False)
class Edit:
    """What all edits have in common.

    Attributes:
        layer: the layers that are changed: a name, a number, a pattern such as ``"*.3.*"``.
        heads: the numbers of the heads (of channels, for a mixer with a map for each channel);
            None for all.
        samples: the numbers of the samples; None for all.
    """

    layer: Chosen
    heads: Chosen = field(default=None, kw_only=True)
    samples: Tokens = field(default=None, kw_only=True)

    def __repr__(self) -> str:
        """As it is written: fields that keep their default are left out."""
        given = [each for each in fields(self) if getattr(self, each.name) != each.default]
        listed = ", ".join(f"{each.name}={getattr(self, each.name)!r}" for each in given)
        return f"{type(self).__name__}({listed})"

    def to_json(self) -> dict[str, Any]:
        """The edit as a dictionary of numbers, strings and lists; ``from_json`` reads it.

        Raises:
            ValueError: if it holds the inspection of another run instead of the name of one.
        """
        record: dict[str, Any] = {"edit": type(self).__name__}
        for each in fields(self):
            value = getattr(self, each.name)
            if value != each.default:
                record[each.name] = _plain(f"{type(self).__name__}.{each.name}", value)
        return record


@dataclass(frozen=True, repr=False)
class Cut(Edit):
    """These edges are zero: what the tokens ``written`` get from the tokens ``read``; None for all.

    With ``renormalise`` the scores of a softmax are masked instead, so that the other weights of
    the row grow.
    """

    written: Tokens = None
    read: Tokens = None
    renormalise: bool = False


@dataclass(frozen=True, repr=False)
class Scale(Edit):
    """These edges are multiplied by ``factor``."""

    factor: float
    written: Tokens = None
    read: Tokens = None


@dataclass(frozen=True, repr=False)
class Window(Edit):
    """Every token reads only the last ``width`` tokens, itself included."""

    width: int
    renormalise: bool = False


@dataclass(frozen=True, repr=False)
class Sink(Edit):
    """No token reads the first one; with ``keep``, every token reads only the first and itself."""

    keep: bool = False
    renormalise: bool = False


@dataclass(frozen=True, repr=False)
class Negative(Edit):
    """The negative entries of the map are zero, or, with ``keep``, all others are."""

    keep: bool = False


@dataclass(frozen=True, repr=False)
class MapFrom(Edit):
    """The map is that of another run of the same length; the values are those of this run."""

    other: Source = None


@dataclass(frozen=True, repr=False)
class ValueFrom(Edit):
    """The values of these tokens are those of another run; the map is that of this run."""

    other: Source = None
    tokens: Tokens = None


@dataclass(frozen=True, repr=False)
class StateFrom(Edit):
    """The recurrent state after ``token`` is that of another run, after ``other_token`` there.

    A short convolution in front of the mixer still has the last tokens of this run, and writes them
    into the state of the next ones. For a state that holds all that the other run knew of a token,
    take a ``token`` that lies the width of the convolution, less one, behind it.
    """

    token: int
    other: Source = None
    other_token: int | None = None


@dataclass(frozen=True, repr=False)
class Forget(Edit):
    """The state is cleared before ``token``: it and later tokens read nothing from earlier ones."""

    token: int


@dataclass(frozen=True, repr=False)
class Reduce(Edit):
    """What passes from the tokens before ``token`` to later ones keeps ``order`` directions.

    These are the strongest of the Hankel block at that token (its largest singular values): what a
    memory of ``order`` numbers could carry across it at best.
    """

    order: int
    token: int


@dataclass(frozen=True, repr=False)
class Ablate(Edit):
    """The response of these heads is zero."""


@dataclass(frozen=True, repr=False)
class Mean(Edit):
    """The response of these heads is, at every token, its mean over the tokens of a run.

    The run is this one, sample by sample, or that of the inspection ``over``, over all its samples.
    """

    over: Source = None


MapEdit = Cut | Scale | Window | Sink | Negative | MapFrom
StateEdit = StateFrom | Forget | Reduce
ResponseEdit = Ablate | Mean
KINDS: Mapping[str, type[Edit]] = {
    each.__name__: each
    for each in (
        Cut, Scale, Window, Sink, Negative, MapFrom, ValueFrom, StateFrom, Forget, Reduce, Ablate,
        Mean,
    )
}  # fmt: skip


def from_json(record: Mapping[str, Any]) -> Edit:
    """The edit that ``to_json`` wrote.

    Raises:
        ValueError: if it is no edit, or has fields that the edit does not have.
    """
    given = {name: _from_plain(value) for name, value in record.items()}
    name = given.pop("edit", None)
    if name not in KINDS:
        raise ValueError(f"edits: {name!r} is no edit; there are {', '.join(KINDS)}.")
    known = {each.name for each in fields(KINDS[name])}
    if odd := set(given) - known:
        raise ValueError(
            f"edits: {name} has no field {sorted(odd)[0]!r}; it has {', '.join(sorted(known))}."
        )
    try:
        return KINDS[name](**given)
    except TypeError as error:
        raise ValueError(f"edits: {name} is not complete: {error}.") from error


def _plain(where: str, value: Any) -> Any:
    if isinstance(value, slice):
        return {"from": value.start, "to": value.stop, "step": value.step}
    if isinstance(value, list | tuple | range):
        return [_plain(where, each) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(
        f"{where}: {type(value).__name__} has no form in a file. Give the name of a run, and the "
        "run itself as intervene(..., sources={name: inspection})."
    )


def _from_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return slice(value.get("from"), value.get("to"), value.get("step"))
    if isinstance(value, list):
        return [_from_plain(each) for each in value]
    return value
