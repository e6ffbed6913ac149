"""Untrusted text, made harmless to look at."""

import unicodedata

LONGEST = 80
# Control, format (bidirectional marks, joiners), lone surrogates, line and paragraph separators.
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def escaped(text: str, *, most: int = LONGEST) -> str:
    r"""``text`` with characters that do not show, or that reorder others, written as escapes.

    >>> plain("a\tb\u202e!")
    'a\\tb\\u202e!'
    """
    short = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(_escaped(each) if _unseen(each) else each for each in short)


def _unseen(character: str) -> bool:
    return unicodedata.category(character) in UNSEEN


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
