"""Finds the weight files of a model's folder and reads the tensors in them."""

import hashlib
from pathlib import Path
from typing import Any

from torch import Tensor

from dsf.loading.archives import read_archive
from dsf.loading.bounded_json import read_object
from dsf.loading.errors import LoadError, listed, shown
from dsf.loading.folder import ModelFolder
from dsf.loading.tensor_files import read_safetensors

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED, _PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_MOST_INDEX_BYTES = 64 * 1024**2


def weight_files(folder: ModelFolder, *, allow_pickle_archive: bool) -> list[Path]:
    """The files that hold a folder's weights, in the order of their names.

    Raises:
        LoadError: there are none, or an index names a file that is missing, a link, in another
            folder or of another kind.
    """
    kinds = [(_SINGLE, _INDEX)]
    if allow_pickle_archive:
        kinds.append((_PICKLED, _PICKLED_INDEX))
    for single, index in kinds:
        if (path := folder.file(single)) is not None:
            return [path]
        if (path := folder.file(index)) is not None:
            return _shards(folder, path, Path(single).suffix)
    pickles = listed(folder.pickles())
    raise LoadError(
        f"{folder.path}: has no {_SINGLE}"
        + (f", and {pickles} would have to be unpickled" if pickles else "")
        + "; save the model with save_pretrained"
        + (", or pass allow_pickle_archive=True." if pickles else ".")
    )


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


def _shards(folder: ModelFolder, index: Path, suffix: str) -> list[Path]:
    table: Any = read_object(index, most_bytes=_MOST_INDEX_BYTES).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise LoadError(f"{index}: has no 'weight_map' from names to files; download it again.")
    names = sorted(set(table.values()))
    if wrong := [name for name in names if not name.endswith(suffix)]:
        raise LoadError(
            f"{index}: names {shown(wrong[0])}, which is no {suffix} file; download it again."
        )
    return [folder.required(name, "download the missing part of the weights") for name in names]
