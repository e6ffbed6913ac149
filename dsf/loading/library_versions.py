"""The oldest releases of torch, transformers and gguf that may be used on untrusted files."""

from importlib.metadata import version
from typing import Any

from dsf.loading.errors import LoadError, reason

_OLDEST_TORCH = (2, 11)
_OLDEST_MODEL_LIBRARY = (5, 3)
_OLDEST_GGUF = (0, 17)
_GGUF_CURE = 'pip install --upgrade "dsf-toolkit[gguf]"'


def check_torch(release: str | None = None) -> None:
    """Raise unless torch is 2.11 or later, which closed the known vulnerabilities of its readers.

    Raises:
        LoadError: torch is older.
    """
    import torch

    release = str(torch.__version__) if release is None else release
    if _release(release) < _OLDEST_TORCH:
        raise LoadError(
            f"reading untrusted weights needs torch 2.11 or later, but {release} is installed: "
            "pip install --upgrade torch."
        )


def model_library() -> Any:
    """The ``transformers`` module.

    Raises:
        LoadError: it is not installed or older than 5.3.
    """
    try:
        import transformers
    except ImportError as error:
        raise LoadError(
            f"reading a model needs transformers, which cannot be imported ({reason(error)}): "
            'pip install "dsf-toolkit[hf]".'
        ) from None
    if _release(transformers.__version__) < _OLDEST_MODEL_LIBRARY:
        raise LoadError(
            f"reading a model needs transformers 5.3 or later, but {transformers.__version__} is "
            'installed: pip install --upgrade "dsf-toolkit[hf]".'
        )
    return transformers


def gguf_library() -> Any:
    """The ``gguf`` module.

    Raises:
        LoadError: it is not installed or older than 0.17.
    """
    try:
        import gguf
    except ImportError as error:
        raise LoadError(
            f"reading a GGUF file needs the gguf package, which cannot be imported "
            f"({reason(error)}): {_GGUF_CURE}."
        ) from None
    if _release(found := version("gguf")) < _OLDEST_GGUF:
        raise LoadError(
            f"reading a GGUF file needs gguf 0.17 or later, but {found} is installed: {_GGUF_CURE}."
        )
    return gguf


def gguf_reader() -> Any:
    """The function of transformers that reads a GGUF file into settings and weights.

    Raises:
        LoadError: a package is missing or too old, or this release of transformers has no such
            function.
    """
    gguf_library()
    model_library()
    try:
        from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
    except ImportError as error:
        raise LoadError(
            f"this release of transformers reads no GGUF files ({reason(error)}): "
            'install one that does, such as pip install "transformers==5.24.0".'
        ) from None
    return load_gguf_checkpoint


def _release(number: str) -> tuple[int, ...]:
    return tuple(int(part) for part in number.split(".")[:2])
