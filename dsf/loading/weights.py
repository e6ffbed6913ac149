"""Reads the tensors in the weight files of a model."""

import hashlib
from pathlib import Path

from torch import Tensor

from dsf.loading.archives import read_archive
from dsf.loading.errors import LoadError, listed
from dsf.loading.tensor_files import read_safetensors


def read_weights(files: list[Path]) -> dict[str, Tensor]:
    """The tensors of all files together.

    Raises:
        LoadError: a file is refused, or two files hold a tensor of the same name.
    """
    weights: dict[str, Tensor] = {}
    for path in files:
        reader = read_safetensors if path.suffix == ".safetensors" else _unpickled
        tensors = reader(path)
        if twice := weights.keys() & tensors.keys():
            raise LoadError(
                f"{path}: {listed(sorted(twice))} is also in another file; remove one of them."
            )
        weights |= tensors
    return weights


def fingerprint(files: list[Path]) -> str:
    """SHA-256, in hexadecimal, over the names and contents of ``files``."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{content}  {path.name}\n".encode())
    return total.hexdigest()


def _unpickled(path: Path) -> dict[str, Tensor]:
    return read_archive(path, torchscript=False)
