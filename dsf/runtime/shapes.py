"""Checks of sizes and axes, and the error that names the axis and the sizes when they differ."""

import operator
from collections.abc import Iterator
from math import inf
from types import UnionType
from typing import Any

Size = int | tuple[int, ...]


class ShapeError(ValueError):
    """Sizes that must agree do not."""


def agree(owner: str, axis: str, **sizes: Size) -> None:
    """Raise unless every named part has the same size along ``axis``."""
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{name} has {_plain(size)}" for name, size in sizes.items())
        raise ShapeError(f"{owner}: every part must have the same '{axis}' size, but {said}.")


def on_one_device(owner: str, **devices: object) -> None:
    """Raise unless every named part is on the same device."""
    if len(set(devices.values())) > 1:
        listed = ", ".join(f"{name} is on {device}" for name, device in devices.items())
        raise ShapeError(f"{owner}: every part must be on the same device, but {listed}.")


def has_axes(owner: str, part: str, shape: tuple[int, ...], axes: str) -> None:
    """Raise ShapeError unless ``shape`` has as many axes as ``axes`` names.

    ``axes`` is a list of names separated by spaces. A name with a star, such as ``*batch``, means
    for any number of axes.
    """
    words = axes.split()
    named = [word for word in words if not word.startswith("*")]
    enough = len(shape) >= len(named) if len(named) < len(words) else len(shape) == len(named)
    if not enough:
        raise ShapeError(
            f"{owner}: '{part}' must have the axes '{axes}', "
            f"but its shape is {_plain(tuple(shape))}."
        )


def named_sizes(part: str, axes: str, shape: tuple[int, ...]) -> Iterator[tuple[str, str, Size]]:
    """Every axis with its label in messages and its size; a starred name takes the other axes.

    A number among the axis names is a required size.
    """
    words = axes.split()
    starred = next((k for k, word in enumerate(words) if word.startswith("*")), len(words))
    after = len(words) - starred - 1
    for k, word in enumerate(words):
        label = f"{part} (axis {k})" if word in words[:k] else part
        if k == starred:
            yield word.lstrip("*"), label, shape[starred : len(shape) - after]
        else:
            size = shape[k] if k < starred else shape[k - len(words)]
            yield word, label, size
            if word.isdigit():
                yield word, "the rule", int(word)


def at_least(least: int, owner: str, name: str, value: object, unit: str = "") -> int:
    """Return ``value`` if it is an integer of at least ``least``.

    >>> at_least(1, "window_mass", "width", 4)
    4
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{owner}: '{name}' must be a whole number, but it is {value!r}.")
    if number < least:
        raise ValueError(f"{owner}: '{name}' must be at least {least}{unit}, but it is {number}.")
    return number


def a_share(owner: str, name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(
            f"{owner}: '{name}' must be a share, from 0 to below 1, but it is {value}."
        )
    return float(value)


def above_zero(owner: str, name: str, value: float) -> float:
    if not 0 < value < inf:
        raise ValueError(f"{owner}: '{name}' must be finite and above 0, but it is {value}.")
    return float(value)


def of_kind(owner: str, name: str, value: Any, kind: Any, words: str) -> Any:
    """Return ``value`` if it is of a class or union, or passes a function, as ``words`` say."""
    is_kind = isinstance(value, kind) if isinstance(kind, type | UnionType) else kind(value)
    if not is_kind:
        raise TypeError(f"{owner}: '{name}' must be {words}, but it is {type(value).__name__}.")
    return value


def _plain(size: Size) -> str:
    return str(tuple(size)) if isinstance(size, tuple) else str(size)
