"""Edits of a token mixer: what is changed in its map, its values, its state or its response.

An edit is plain data: it is printed as it is written, and ``edit.to_json()`` and ``from_json`` give
it a form that a file can hold. ``dsf.intervene`` applies edits while the model runs.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from importlib import import_module
from math import isfinite
from numbers import Real
from typing import Any

from dsf.inspection.choice import Chosen
from dsf.runtime.shapes import at_least, of_kind


def __getattr__(name: str) -> Any:
    if name != "applied":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return import_module("dsf.interventions.applied").applied  # which needs torch


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

    Several numbers or names are kept as a list, however they are given, so that an edit equals the
    one that is read from its JSON.

    Raises:
        TypeError: if a field is none of what it may be, such as a token that is not a whole number.
        ValueError: if a factor is not finite, or a slice goes backward.
    """

    layer: Chosen
    heads: Chosen = field(default=None, kw_only=True)
    samples: Tokens = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for each in fields(self):
            owner = type(self).__name__
            plain = PLAIN.get(each.name, PLAIN.get(each.type))
            if plain is not None:
                value = plain(owner, each.name, getattr(self, each.name))
                object.__setattr__(self, each.name, value)

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
    """These edges are zero: what the tokens ``query`` get from the tokens ``key``; None for all.

    With ``renormalise`` the scores of a softmax are masked instead, so that the other weights of
    the row grow.
    """

    query: Tokens = None
    key: Tokens = None
    renormalise: bool = False


@dataclass(frozen=True, repr=False)
class Scale(Edit):
    """These edges are multiplied by ``factor``."""

    factor: float
    query: Tokens = None
    key: Tokens = None


@dataclass(frozen=True, repr=False)
class Window(Edit):
    """Every token reads only the last ``width`` tokens, itself included.

    Where a layer looks ahead, it reads as many that follow.
    """

    width: int
    renormalise: bool = False


@dataclass(frozen=True, repr=False)
class Sink(Edit):
    """No token reads the first one; with ``keep``, every token reads only the first and itself.

    The first is number 0 of the input, which in a batch that is padded on the left is padding.
    """

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
class Protect(Edit):
    """What the token ``key`` left in the state passes the tokens from ``from_`` on unchanged.

    The state is a sum of traces, one of each token; only that of ``key`` is spared, and its decay
    and overwriting go on at the token ``until``. By default one token, ``from_``, is kept from
    erasing it.
    """

    key: int = field(kw_only=True)
    from_: int = field(kw_only=True)
    until: int | None = field(default=None, kw_only=True)


@dataclass(frozen=True, repr=False)
class Reduce(Edit):
    """What passes from the tokens before ``token`` to later ones keeps ``order`` directions.

    These are the strongest of the Hankel block at that token (its largest singular values): what a
    memory of ``order`` numbers could carry across it at best.
    """

    order: int
    token: int


@dataclass(frozen=True, repr=False)
class RoundState(Edit):
    """The state is rounded after every token to numbers of ``bits`` bits.

    All numbers of one head share a scale, their largest magnitude; ``"int8"`` is 8 bits. The name
    of a floating type, such as ``"bfloat16"``, rounds to numbers of that type instead.
    """

    bits: int | str = field(kw_only=True)


@dataclass(frozen=True, repr=False)
class Ablate(Edit):
    """The response of these heads is zero."""


@dataclass(frozen=True, repr=False)
class Mean(Edit):
    """The response of these heads is, at every token, its mean over the tokens of a run.

    The run is this one, sample by sample, or that of the inspection ``over``, over all its samples.
    Tokens of padding count like others.
    """

    over: Source = None


MapEdit = Cut | Scale | Window | Sink | Negative | MapFrom
ResponseEdit = Ablate | Mean
KINDS: Mapping[str, type[Edit]] = {each.__name__: each for each in Edit.__subclasses__()}
__all__ = list(KINDS)
__all__ += ["Edit", "applied", "from_json"]  # noqa: F822  # found on first use


def from_json(record: Mapping[str, Any]) -> Edit:
    """The edit that ``to_json`` wrote.

    Raises:
        ValueError: if it is not an edit, or has fields that the edit does not have, or values that
            these cannot have.
    """
    if not isinstance(record, Mapping):
        raise ValueError(
            "edits: an edit is a dictionary such as {'edit': 'Cut', 'layer': 0, 'key': 5}, but it "
            f"is {record!r}."
        )
    given = {name: _from_plain(value) for name, value in record.items()}
    name = given.pop("edit", None)
    if not isinstance(name, str) or name not in KINDS:
        raise ValueError(f"edits: {name!r} is not an edit; there are {', '.join(KINDS)}.")
    known = {each.name for each in fields(KINDS[name])}
    if odd := set(given) - known:
        raise ValueError(
            f"edits: {name} has no field {sorted(odd)[0]!r}; it has {', '.join(sorted(known))}."
        )
    needed = [each.name for each in fields(KINDS[name]) if each.default is MISSING]
    if missing := [each for each in needed if each not in given]:
        raise ValueError(f"edits: {name} is not complete: it needs '{missing[0]}'.")
    for each in ("other", "over"):
        if not isinstance(given.get(each), str | None):
            raise ValueError(
                f"edits: {name}: '{each}' must be the name of a run, but it is {given[each]!r}."
            )
    try:
        return KINDS[name](**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"edits: {error}") from error


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
        if odd := [each for each in value if each not in ("from", "to", "step")]:
            raise ValueError(
                f"edits: a range is written as {{'from': 0, 'to': 4}}, but one has {odd[0]!r}."
            )
        return slice(value.get("from"), value.get("to"), value.get("step"))
    if isinstance(value, list):
        return [_from_plain(each) for each in value]
    return value


# What a field may hold


_whole = partial(at_least, -(2**63))


def _whole_or_none(owner: str, name: str, value: Any) -> int | None:
    return None if value is None else _whole(owner, name, value)


def _several(owner: str, name: str, value: Any, kinds: str, *, texts: bool = False) -> Any:
    """None, or one or several whole numbers (or texts) and slices, as plain data in a list."""
    where = f"{owner}: '{name}'"

    def plain(part: Any) -> Any:
        if isinstance(part, slice):
            bounds = (part.start, part.stop, part.step)
            found = slice(*(_whole_or_none(owner, name, each) for each in bounds))
            if found.step is not None and found.step < 1:
                raise ValueError(
                    f"{where} has {found!r}, but a slice must have a step of at least 1."
                )
            return found
        try:
            return part if texts and isinstance(part, str) else _whole(owner, name, part)
        except TypeError:
            raise TypeError(f"{where} must be {kinds}, but it has {part!r}.") from None

    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Iterable) and not isinstance(value, str | Mapping):
        return [plain(each) for each in value]
    return None if value is None else plain(value)


def _factor(owner: str, name: str, value: Any) -> float:
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{owner}: '{name}' must be a real number, but it is {value!r}.")
    if not isfinite(value):
        raise ValueError(f"{owner}: '{name}' must be finite, but it is {value!r}.")
    return float(value)


def state_type(owner: str, name: str, value: Any) -> int | str:
    """To what states are rounded: a number of bits, for ``"int8"`` 8, or a floating type's name."""
    if not isinstance(value, str):
        return at_least(2, owner, name, value)
    if value not in (*INTEGERS, *FLOATING):
        raise ValueError(
            f"{owner}: '{name}' must be a number of bits from 2, or one of "
            f"{', '.join((*INTEGERS, *FLOATING))}, but it is {value!r}."
        )
    return INTEGERS.get(value, value)


INTEGERS = {f"int{bits}": bits for bits in (2, 3, 4, 5, 6, 7, 8, 16)}
"""Numbers of bits of states with a scale, by the names of their number types."""
FLOATING = (
    "bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2",
    "float8_e5m2fnuz",
)  # fmt: skip
PLAIN: Mapping[Any, Callable[[str, str, Any], Any]] = {
    Chosen: partial(_several, kinds="numbers, names or slices", texts=True),
    Tokens: partial(_several, kinds="whole numbers, a slice or a range"),
    int: _whole,
    int | None: _whole_or_none,
    float: _factor,
    bool: partial(of_kind, kind=bool, words="True or False"),
    "width": partial(at_least, 1),  # it counts tokens, the own one included
    "order": partial(at_least, 0),
    "bits": state_type,
}
"""What makes plain data of a field, by its name or its type; refuses other values."""
