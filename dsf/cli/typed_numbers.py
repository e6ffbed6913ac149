"""Numbers as a person types them: plain digits, where Python also reads ``1_0`` and ``１０``."""

import re
from typing import Any

import typer

WHOLE = re.compile(r"[+-]?[0-9]+", re.ASCII)
REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?(inf|nan)", re.ASCII | re.I)
LONGEST = 40
"""Digits: more than any number that is meant, and fewer than Python refuses to read."""


def whole(word: str) -> int:
    """A whole number.

    Raises:
        ValueError: if it is none.
    """
    return int(_digits(word, WHOLE, "whole number"))


def real(word: str) -> float:
    """A number, perhaps with a fraction; also ``inf`` and ``nan``.

    Raises:
        ValueError: if it is none.
    """
    return float(_digits(word, REAL, "number"))


def _digits(word: str, pattern: re.Pattern[str], what: str) -> str:
    plain = word.strip()
    if len(plain) > LONGEST or not pattern.fullmatch(plain):
        raise ValueError(f"{word!r} is no {what}")
    return plain


def is_count(word: str) -> bool:
    """Whether it is a whole number without a sign."""
    return len(word) <= LONGEST and word.isascii() and word.isdecimal()


def whole_option(**settings: Any) -> Any:
    """An option that takes a whole number."""
    return typer.Option(parser=_whole_option, metavar="N", **settings)


def real_option(**settings: Any) -> Any:
    """An option that takes a number."""
    return typer.Option(parser=_real_option, metavar="X", **settings)


def _whole_option(word: object) -> int:  # some parsers read defaults as well
    try:
        return whole(str(word))
    except ValueError:
        raise typer.BadParameter(f"it must be a whole number, but {word!r} came.") from None


def _real_option(word: object) -> float:
    try:
        return real(str(word))
    except ValueError:
        raise typer.BadParameter(f"it must be a number such as 0.5, but {word!r} came.") from None
