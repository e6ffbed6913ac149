"""Loads models from untrusted checkpoints: weight files and configurations are opened here only.

No code of a checkpoint runs.
"""

from typing import TYPE_CHECKING

from dsf.runtime.first_use import finding

__all__ = [
    "LoadError",
    "LoadedModel",
    "file_hashes",
    "load_model",
    "load_skeleton",
    "read_model_tokenizer",
    "token_texts",
]

__getattr__ = finding(__name__)

if TYPE_CHECKING:
    from dsf.loading.errors import LoadError
    from dsf.loading.loader import (
        LoadedModel,
        file_hashes,
        load_model,
        load_skeleton,
        read_model_tokenizer,
    )
    from dsf.loading.tokenizer_child import token_texts
