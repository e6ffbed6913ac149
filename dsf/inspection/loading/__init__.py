"""The one loader: strangers' weight files and settings are opened here and nowhere else."""

from dsf.inspection.loading.errors import LoadError
from dsf.inspection.loading.loader import (
    LoadedModel,
    file_hashes,
    load_model,
    read_model_tokenizer,
)
from dsf.inspection.loading.piecewise import PiecewiseModel, open_piecewise
from dsf.inspection.loading.reading import read_tensors

__all__ = [
    "LoadError",
    "LoadedModel",
    "PiecewiseModel",
    "file_hashes",
    "load_model",
    "open_piecewise",
    "read_model_tokenizer",
    "read_tensors",
]
