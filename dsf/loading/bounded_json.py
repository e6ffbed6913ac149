"""Reads JSON from untrusted files with limits on size, depth and numbers."""

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from dsf.loading.errors import LoadError

_DEEPEST = 64


def read_object(path: Path, *, most_bytes: int) -> dict[str, Any]:
    """The JSON object in a file of at most ``most_bytes``.

    Raises:
        LoadError: too large, too deep, not JSON, not an object, or a number that is not finite.
    """
    size = path.stat().st_size
    if size > most_bytes:
        raise LoadError(
            f"{path}: the file has {size} bytes, where at most {most_bytes} are read; "
            "check that this is the right file."
        )
    return parse_object(path.read_bytes(), str(path))


def parse_object(text: bytes, where: str) -> dict[str, Any]:
    """The JSON object in ``text``; ``where`` names it in errors.

    Raises:
        LoadError: too deep, not JSON, not an object, or a number that is not finite.
    """
    try:
        value = json.loads(
            text.decode("utf-8"), parse_constant=_not_a_number, parse_float=_finite_float
        )
    except RecursionError:
        raise LoadError(_too_deep(where)) from None
    except ValueError as error:
        raise LoadError(f"{where}: not acceptable JSON ({error}); save the file again.") from None
    if not isinstance(value, dict):
        raise LoadError(
            f"{where}: expected a JSON object, got {type(value).__name__}; save the file again."
        )
    _check_depth(value, where)
    return value


def _not_a_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number of JSON")


def _finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is too large for a number")
    return number


def _check_depth(value: object, where: str) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
    raise LoadError(_too_deep(where))


def _children(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _too_deep(where: str) -> str:
    return f"{where}: nested deeper than {_DEEPEST} levels, which no model needs; correct the file."
