"""An option that takes one value is given once: the parser would keep the last without a word."""

from collections.abc import Iterable, Sequence
from typing import Any


def check_given_once(arguments: Sequence[str], options: Iterable[Any]) -> None:
    """Whether no option that takes one value is there twice.

    Args:
        arguments: what was typed.
        options: those of the command, as the parser has them.

    Raises:
        ValueError: if one is.
    """
    with_value = {
        name: option
        for option in options
        for name in getattr(option, "opts", ())
        if name.startswith("--") and not getattr(option, "is_flag", False)
    }
    seen: set[str] = set()
    words = iter(arguments)
    for word in words:
        if word == "--":
            return
        name, sign, _ = word.partition("=")
        option = with_value.get(name)
        if option is None:
            continue
        if name in seen and not getattr(option, "multiple", False):
            raise ValueError(f"{name} is there twice, but has one value. Leave one of them out.")
        seen.add(name)
        if not sign:
            next(words, None)
