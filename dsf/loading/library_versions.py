"""The oldest releases of torch, transformers and gguf that may be used on untrusted files."""

from importlib import import_module
from importlib.metadata import version
from typing import Any

from dsf.loading.errors import LoadError, reason

_OLDEST_TORCH = (2, 11)  # closed the known vulnerabilities of its readers


def check_torch(release: str | None = None) -> None:
    """Raise LoadError unless torch is 2.11 or later."""
    import torch

    release = str(torch.__version__) if release is None else release
    if _numbers(release) < _OLDEST_TORCH:
        raise LoadError(
            f"reading untrusted weights needs torch 2.11 or later, but {release} is installed: "
            "pip install --upgrade torch."
        )


def model_library() -> Any:
    """Return the ``transformers`` module; raise LoadError if it is missing or older than 5.3."""
    return _library("transformers", (5, 3), "hf", "reading a model")


def gguf_library() -> Any:
    """Return the ``gguf`` module; raise LoadError if it is missing or older than 0.17."""
    return _library("gguf", (0, 17), "gguf", "reading a GGUF file")


def gguf_converter() -> Any:
    """Return the module of transformers that maps the settings and weights of GGUF files.

    Raises:
        LoadError: a package is missing or too old, or this release of transformers has no such
            module.
    """
    gguf_library()
    model_library()
    try:
        return import_module("transformers.modeling_gguf_pytorch_utils")
    except ImportError as error:
        raise LoadError(
            f"this release of transformers reads no GGUF files ({reason(error)}): "
            'install one that does, such as pip install "transformers==5.24.0".'
        ) from None


def _library(name: str, oldest: tuple[int, int], extra: str, purpose: str) -> Any:
    try:
        module = import_module(name)
    except ImportError as error:
        raise LoadError(
            f"{purpose} needs {name}, which cannot be imported ({reason(error)}): "
            f'pip install "dsf-toolkit[{extra}]".'
        ) from None
    found = getattr(module, "__version__", None) or version(name)
    if _numbers(found) < oldest:
        raise LoadError(
            f"{purpose} needs {name} {oldest[0]}.{oldest[1]} or later, but {found} is installed: "
            f'pip install --upgrade "dsf-toolkit[{extra}]".'
        )
    return module


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".")[:2])
