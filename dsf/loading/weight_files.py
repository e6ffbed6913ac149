"""Which files of a model's folder hold its weights."""

from pathlib import Path
from typing import Any

from dsf.loading.bounded_json import read_object
from dsf.loading.errors import LoadError, listed, shown
from dsf.loading.folder import ModelFolder

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
