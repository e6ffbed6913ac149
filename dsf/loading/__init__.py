"""Loads models from untrusted checkpoints: weight files and configurations are opened here only.

No code that comes with a checkpoint runs, and nothing is unpickled.
"""

from dsf.loading.errors import LoadError
from dsf.loading.loader import (
    LoadedModel,
    file_hashes,
    load_model,
    load_skeleton,
    read_model_tokenizer,
)
from dsf.loading.piecewise import PiecewiseModel, open_piecewise
from dsf.loading.tensor_files import read_tensors
from dsf.loading.tokenizer import token_texts

__all__ = [
    "LoadError",
    "LoadedModel",
    "PiecewiseModel",
    "file_hashes",
    "load_model",
    "load_skeleton",
    "open_piecewise",
    "read_model_tokenizer",
    "read_tensors",
    "token_texts",
]
