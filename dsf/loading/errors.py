"""What the loader raises, and how it shows words from an untrusted file."""

_LONGEST = 120


class LoadError(ValueError):
    """A file or folder was refused: what, where, why and what to do, in one sentence."""


def shown(name: object) -> str:
    """``name`` on one line: control and bidirectional characters escaped, long ones cut.

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
    """The first line of what another library said, which may quote words from an untrusted file."""
    return shown((str(error).strip() or type(error).__name__).splitlines()[0])
