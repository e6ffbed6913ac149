"""The oldest releases of torch, transformers and gguf that may be used on untrusted files."""

from importlib import import_module
from importlib.metadata import version
from typing import Any

from dsf.loading.errors import LoadError, reason


def check_torch() -> None:
    """Raise LoadError if torch is older than 2.11, which closed holes in its readers."""
    _library("torch", (2, 11), "torch", "reading untrusted weights")


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
