"""``LoadError``, and how text from an untrusted file is quoted in its messages."""

_LONGEST = 120


class LoadError(ValueError):
    """A file or folder was refused; the message names the file, the reason and what to do."""


def shown(name: object) -> str:
    """``name`` quoted on one line: control and bidirectional characters escaped, long text cut.

    >>> shown("a\\x1b[31m")
    "'a\\\\x1b[31m'"
    """
    text = repr(name if isinstance(name, str) else str(name))
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "...'"


def listed(names: list[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown(name) for name in names[:most]) + rest


def reason(error: Exception) -> str:
    """The first line of another library's message, quoted, since it may repeat untrusted text.

    A line that ends in a colon says nothing without the one below it.
    """
    first, *more = (str(error).strip() or type(error).__name__).splitlines()
    return shown(f"{first} {more[0].strip()}" if first.endswith(":") and more else first)
