"""The oldest releases of torch and transformers that may be used on untrusted files."""

from typing import Any

import torch

from dsf.loading.errors import LoadError, reason

_OLDEST_TORCH = (2, 11)
_OLDEST_MODEL_LIBRARY = (5, 3)


def check_torch(version: str | None = None) -> None:
    """Raise unless torch is 2.11 or later, which closed the known vulnerabilities of its readers.

    Raises:
        LoadError: torch is older.
    """
    version = str(torch.__version__) if version is None else version
    if _release(version) < _OLDEST_TORCH:
        raise LoadError(
            f"reading untrusted weights needs torch 2.11 or later, but {version} is installed: "
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


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])
