"""``LoadError``, how text of an untrusted file is quoted, and the libraries that may read one."""

from importlib import import_module
from importlib.metadata import version
from typing import Any

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


def model_library() -> Any:
    """Return the ``transformers`` module; raise LoadError if it is missing or older than 5.3."""
    return _library("transformers", (5, 3), "dsf-toolkit[hf]", "reading a model")


def gguf_library() -> Any:
    """Return the ``gguf`` module; raise LoadError if it is missing or older than 0.17."""
    return _library("gguf", (0, 17), "dsf-toolkit[gguf]", "reading a GGUF file")


def gguf_converter() -> Any:
    """Return the module of transformers that maps the settings and weights of GGUF files."""
    gguf_library()
    model_library()
    try:
        return import_module("transformers.modeling_gguf_pytorch_utils")
    except ImportError as error:
        raise LoadError(
            f"this release of transformers reads no GGUF files ({reason(error)}): "
            'install one that does, such as pip install "transformers==5.24.0".'
        ) from None


def _library(name: str, oldest: tuple[int, int], package: str, purpose: str) -> Any:
    try:
        module = import_module(name)
    except ImportError as error:
        raise LoadError(
            f"{purpose} needs {name}, which cannot be imported ({reason(error)}): "
            f'pip install "{package}".'
        ) from None
    found = getattr(module, "__version__", None) or version(name)
    if tuple(int(part) for part in found.split(".")[:2]) < oldest:
        raise LoadError(
            f"{purpose} needs {name} {oldest[0]}.{oldest[1]} or later, but {found} is installed: "
            f'pip install --upgrade "{package}".'
        )
    return module
