"""Escapes characters of untrusted text that are invisible or reorder the text around them."""

import unicodedata

LONGEST = 80
# Control, format (bidirectional marks, joiners), lone surrogates, line and paragraph separators.
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def escaped(text: str, *, most: int = LONGEST) -> str:
    r"""``text`` with invisible and reordering characters written as escapes, and cut if too long.

    >>> escaped("a\tb\u202e!")
    'a\\tb\\u202e!'
    """
    short = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(
        each.encode("unicode_escape", "surrogatepass").decode("ascii")
        if unicodedata.category(each) in UNSEEN
        else each
        for each in short
    )
