"""Arguments checked before the work, by the annotations of the function that takes them.

The annotation of a parameter already says what is expected: ``checked`` reads it once and words the
error, so that no function repeats it. What an annotation cannot say, such as a range, stays in the
function.

Why beartype with jaxtyping does not do this (0.23 and 0.3.11, tried): it takes True for a whole
number and refuses those of NumPy, looks at one entry of a list at random, takes tensors that are
sparse, empty or without numbers, and names neither axes that differ nor a cure.
"""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache, wraps
from inspect import Parameter, Signature, signature
from numbers import Real
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar, Union, get_args, get_origin

import numpy as np
import torch
from jaxtyping import AbstractArray
from torch import Tensor

from dsf.runtime.shapes import ShapeError, Size, agree, has_axes, named_sizes

P = ParamSpec("P")
Result = TypeVar("Result")
Judge = Callable[[str, str, Any], Any]

WORDS = {
    "System": "a System such as layer.system",
    "ExplicitMap": "an ExplicitMap",
    "Inspection": "an inspection such as dsf.inspect gives",
    "Table": "a table such as inspection.measure() gives",
    "Module": "a torch module",
    "Tensor": "a torch tensor",
    "Path": "a path",
    "dtype": "a number type such as torch.float32",
    "device": "a torch device",
    "Adapter": "an adapter (dsf.Adapter)",
    "Axes": "axes of matplotlib",
}
"""Words for a class in an error, where they are not ``a`` and its name."""
NUMBERS = {"Float": "real numbers", "Inexact": "real or complex numbers", "Int": "whole numbers"}
LONG = 60  # characters of a value in an error


def checked(function: Callable[P, Result]) -> Callable[P, Result]:
    """Return the function, which first compares its arguments with their annotations.

    Tensors are compared in their number type, in their axes, and in the sizes of those that bear
    the same name. Numbers of NumPy and of torch become those of Python.

    The function then raises:
        TypeError: for another kind of value or another number type.
        ShapeError: for other axes, sizes that differ, or a tensor without an entry.
        ValueError: for a value that is not one of those allowed, NaN, or a tensor without numbers.

    >>> @checked
    ... def window(width: int) -> int:
    ...     return width
    >>> window("a")
    Traceback (most recent call last):
    TypeError: window: 'width' must be a whole number, but it is 'a'.
    """
    owner = function.__qualname__.rpartition("<locals>.")[-1].removesuffix(".__init__")

    @wraps(function)
    def with_checks(*args: P.args, **kwargs: P.kwargs) -> Result:
        call, rules = _plan(function)
        try:
            bound = call.bind_partial(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python names what is unknown or there twice
        tensors: list[tuple[str, str, Tensor]] = []
        for argument in rules:
            if argument.name in bound.arguments:
                given = bound.arguments[argument.name]
                values = given if argument.many else (given,)
                plain = tuple(argument.rule.check(owner, argument.name, each) for each in values)
                bound.arguments[argument.name] = plain if argument.many else plain[0]
                tensors += [found for each in values for found in argument.with_axes(each)]
        if len(tensors) > 1:
            sizes_agree(owner, tensors)
        return function(*bound.args, **bound.kwargs)

    return with_checks


class _Argument(NamedTuple):
    """A parameter with a rule; ``many`` if it takes any number of arguments.

    ``axes`` are those of the tensor, or of each of several, whose sizes are compared.
    """

    name: str
    many: bool
    rule: "Rule"
    axes: tuple[str | None, ...]

    def with_axes(self, value: Any) -> list[tuple[str, str, Tensor]]:
        """The tensors among a value, each with its name and the names of its axes."""
        parts = value if isinstance(value, tuple | list) else (value,)
        return [
            (self.name if len(self.axes) == 1 else f"{self.name}[{k}]", axes, part)
            for k, (axes, part) in enumerate(zip(self.axes, parts, strict=False))
            if axes is not None and isinstance(part, Tensor)
        ]


@cache
def _plan(function: Callable[..., Any]) -> tuple[Signature, tuple[_Argument, ...]]:
    """Return the signature of a function and those of its parameters that have a rule."""
    call, found = signature(function), []
    for name, parameter in call.parameters.items():
        rule = rule_of(parameter.annotation)
        if rule is not None and parameter.kind is not Parameter.VAR_KEYWORD:
            many = parameter.kind is Parameter.VAR_POSITIONAL
            found.append(_Argument(name, many, rule, _compared_axes(parameter.annotation)))
    return call, tuple(found)


def sizes_agree(owner: str, tensors: list[tuple[str, str, Tensor]]) -> None:
    """Raise unless axes of one name have one size in all tensors, each with its name and axes."""
    seen: dict[str, dict[str, Size]] = {}
    for name, axes, value in tensors:
        for axis, label, size in named_sizes(name, axes, tuple(value.shape)):
            seen.setdefault(axis, {})[label] = size
    for axis, sizes in seen.items():
        agree(owner, axis.lstrip("*"), **sizes)


def _compared_axes(annotation: Any) -> tuple[str | None, ...]:
    """Return the axes whose sizes are compared with those of other arguments."""
    if get_origin(annotation) is tuple:
        return tuple(axes for each in get_args(annotation) for axes in _compared_axes(each))
    arrays = [each for each in _members(annotation) if _is_array(each)]
    axes = arrays[0].dim_str if len(arrays) == 1 else "..."
    return (None if "..." in axes or "#" in axes else axes,)


@dataclass(frozen=True)
class Rule:
    """Words, test and range check for one kind of argument."""

    words: str
    fits: Callable[[Any], bool]
    judge: Judge | None = None

    def check(self, owner: str, name: str, value: Any) -> Any:
        """Return ``value`` if it passes, numbers as Python's; raise if it does not."""
        if not self.fits(value):
            raise TypeError(
                f"{owner}: '{name}' must be {self.words}, but it is {shown(value)}."
                f"{_cure(self.words, value)}"
            )
        return value if self.judge is None else self.judge(owner, name, value)


def rule_of(annotation: Any) -> Rule | None:
    """Return the rule for an annotation; None if it cannot be checked."""
    members = _members(annotation)
    if len(members) > 1:
        return _any_of([_of_one(each) for each in members])
    return _of_one(members[0])


def _members(annotation: Any) -> tuple[Any, ...]:
    if isinstance(annotation, TypeVar):
        return _members(annotation.__bound__)
    if get_origin(annotation) in (Union, UnionType):
        return tuple(one for each in get_args(annotation) for one in _members(each))
    return (annotation,)


def _any_of(rules: list[Rule | None]) -> Rule | None:
    known = [rule for rule in rules if rule is not None]
    if len(known) < len(rules):
        return None
    words = list(dict.fromkeys(rule.words for rule in known if rule.words))

    def judge(owner: str, name: str, value: Any) -> Any:
        first = next(rule for rule in known if rule.fits(value))
        return value if first.judge is None else first.judge(owner, name, value)

    said = " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    return Rule(said, lambda value: any(rule.fits(value) for rule in known), judge)


def _of_one(annotation: Any) -> Rule | None:
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in _SIMPLE:
        return _SIMPLE[annotation]
    if origin in _GENERIC:
        return _GENERIC[origin](inner)
    if _is_array(annotation):
        return _array(annotation)
    if isinstance(annotation, type) and annotation not in (Any, object, Parameter.empty):
        said = WORDS.get(annotation.__name__, f"a {annotation.__name__}")
        return Rule(said, lambda value: isinstance(value, annotation))
    return None


def _literal(inner: tuple[Any, ...]) -> Rule:
    said = f"one of {', '.join(map(repr, inner))}"

    def judge(owner: str, name: str, value: Any) -> Any:
        if value not in inner:
            raise ValueError(f"{owner}: '{name}' must be {said}, but it is {value!r}.")
        return value

    kinds = {type(each) for each in inner}
    return Rule(said, lambda value: type(value) in kinds, judge)


def _tuple(inner: tuple[Any, ...]) -> Rule | None:
    known = [rule for rule in map(rule_of, inner) if rule is not None]
    if len(known) < len(inner):
        return None
    said = f"{len(known)} values: {', '.join(rule.words for rule in known)}"

    def judge(owner: str, name: str, values: Any) -> Any:
        pairs = enumerate(zip(known, values, strict=True))
        return tuple(rule.check(owner, f"{name}[{k}]", value) for k, (rule, value) in pairs)

    return Rule(said, lambda value: _is_sequence(value) and len(value) == len(known), judge)


def _iterable(inner: tuple[Any, ...]) -> Rule:
    """Check the entries of a stored iterable; leave an iterator alone, since that consumes it."""
    one = rule_of(inner[0])
    said = "blocks of rows (dsf.evaluate.row_blocks)" if "Rows" in str(inner) else "a list"

    def fits(value: Any) -> bool:
        if not isinstance(value, Iterable) or _is_whole(value):
            return False
        return one is None or not isinstance(value, Sequence | Set) or all(map(one.fits, value))

    return Rule(said, fits)


def is_index(value: object) -> bool:
    """Return whether a value is an integer, also of NumPy or torch, and not a boolean."""
    try:
        operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    is_mask = isinstance(value, Tensor) and value.dtype is torch.bool
    return not (is_mask or isinstance(value, bool))


def _is_number(value: object) -> bool:
    if isinstance(value, Tensor | np.ndarray):
        kind = str(value.dtype)
        return value.ndim == 0 and "complex" not in kind and "bool" not in kind
    return isinstance(value, Real) and not isinstance(value, bool)


def _plain_number(owner: str, name: str, value: Any) -> Any:
    if value != value:  # noqa: PLR0124 (nan; ``isnan`` fails for whole numbers beyond floats)
        raise ValueError(f"{owner}: '{name}' must be a number, but it is nan.")
    return value.item() if isinstance(value, Tensor | np.ndarray | np.number) else value


_SIMPLE: dict[Any, Rule] = {
    int: Rule("a whole number", is_index, lambda *given: operator.index(given[-1])),
    float: Rule("a number", _is_number, _plain_number),
    bool: Rule(
        "True or False",
        lambda value: isinstance(value, bool | np.bool_),
        lambda *given: bool(given[-1]),
    ),
    str: Rule("a text", lambda value: isinstance(value, str)),
    NoneType: Rule("", lambda value: value is None),
}


def _is_whole(value: object) -> bool:
    """Return whether an iterable is treated as a scalar, such as a str or a Tensor."""
    return isinstance(value, str | bytes | Mapping | Tensor | np.ndarray | torch.nn.Module)


def _is_sequence(value: object) -> bool:
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _sequence(inner: tuple[Any, ...]) -> Rule:
    one = rule_of(inner[0])
    if one is None:
        return Rule("a list", _is_sequence)
    said = f"a list, each {one.words}"

    def judge(owner: str, name: str, values: Any) -> Any:
        plain = []
        for value in values:
            if not one.fits(value):
                raise TypeError(
                    f"{owner}: '{name}' must be {said}, but it is {shown(values)} that holds "
                    f"{shown(value)}."
                )
            plain.append(one.check(owner, name, value))
        same = all(a is b for a, b in zip(plain, values, strict=True))
        return values if same else plain

    return Rule(said, _is_sequence, judge)


_GENERIC: dict[Any, Callable[[tuple[Any, ...]], Rule | None]] = {
    Literal: _literal,
    Callable: lambda _: Rule("a function", callable),
    tuple: _tuple,
    Sequence: _sequence,
    Iterable: _iterable,
    Mapping: lambda _: Rule("a mapping such as a dict", lambda value: isinstance(value, Mapping)),
}


def _is_array(annotation: Any) -> bool:
    if annotation is Tensor or annotation is np.ndarray:
        return False
    return isinstance(annotation, type) and issubclass(annotation, AbstractArray)


def _array(annotation: Any) -> Rule:
    axes, kind = annotation.dim_str, annotation.__name__.partition("[")[0]
    array = annotation.array_type
    said = "a torch tensor" if issubclass(array, Tensor) else "an array of NumPy"
    if "..." not in axes:
        said += f" with the axes '{axes}'" if axes else " of one number, without axes"
    if axes.endswith("rows columns"):
        said += " such as layer.map()"

    def judge(owner: str, name: str, value: Any) -> Any:
        is_read, shape = kind in NUMBERS and isinstance(value, Tensor), tuple(value.shape)
        if isinstance(value, Tensor) and value.layout is not torch.strided:
            raise ValueError(
                f"{owner}: '{name}' must be a dense tensor, but its layout is {value.layout}. "
                "Convert it first: .to_dense()."
            )
        if is_read:
            _check_numbers(owner, name, value, kind)
        if "..." not in axes:
            has_axes(owner, name, shape, axes)
        for axis, _, size in named_sizes(name, axes, shape) if is_read and 0 in shape else ():
            if size == 0:
                raise ShapeError(
                    f"{owner}: '{name}' must have at least one entry along '{axis}', but its shape "
                    f"is {shape}."
                )
        return value

    return Rule(said, lambda value: isinstance(value, array), judge)


def _check_numbers(owner: str, name: str, value: Tensor, kind: str) -> None:
    if value.is_meta:
        raise ValueError(
            f"{owner}: '{name}' must hold numbers, but it is on the device meta, which stores "
            f"none. Compute or load it on the CPU first."
        )
    real = value.is_floating_point()
    whole = not real and not value.is_complex() and value.dtype is not torch.bool
    fits = {"Float": real, "Inexact": real or value.is_complex(), "Int": whole}
    if not fits[kind]:
        cure = (
            ".long()" if kind == "Int" else ".real or .abs()" if value.is_complex() else ".double()"
        )
        raise TypeError(
            f"{owner}: '{name}' must hold {NUMBERS[kind]}, but its number type is "
            f"{str(value.dtype).removeprefix('torch.')}. Convert it first, for example with {cure}."
        )


def shown(value: object) -> str:
    """Describe a value in a few words: its source code if that is short, or its class."""
    if isinstance(value, str | bytes | int | float | complex):
        text = repr(value)
        return text if len(text) <= LONG else f"{text[: LONG - 3]}..."
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__


def _cure(words: str, value: object) -> str:
    """Return how to turn ``value`` into what is expected, where that is known."""
    takes_tensor, takes_system = "torch tensor" in words, "System" in words
    is_alone = type(value).__name__ in ("SystemSum", "ExplicitMap") and takes_system
    cures = {
        "torch.from_numpy(array) makes a tensor of it.": takes_tensor
        and isinstance(value, np.ndarray),
        "torch.tensor(...) makes a tensor of numbers.": takes_tensor
        and isinstance(value, list | tuple),
        "A mixer gives its system: mixer.system().": takes_system
        and callable(getattr(value, "system", None)),
        "A layer has its system: layer.system.": takes_system and hasattr(value, "family"),
        "A layer of it has one: inspection[0].system.": takes_system and hasattr(value, "layers"),
        "It has no single recurrent state, which this needs.": is_alone,
    }
    return "".join(f" {cure}" for cure, applies in cures.items() if applies)
