"""NumPy files: plain numbers only, and exactly as many as the file holds."""

import io
import math
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dsf.inspection.loading.errors import LoadError, reason, shown
from dsf.inspection.loading.zip_directory import check_stored, read_directory

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_NUMBERS = "biufc"


def read_npy(path: Path) -> dict[str, Tensor]:
    """The array of an ``.npy`` file, under the file's stem.

    Raises:
        LoadError: Python objects, records or text, or a header that does not fit the file.
    """
    return {path.stem: _tensor(path.read_bytes(), str(path))}


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of an uncompressed ``.npz`` file, by name.

    Raises:
        LoadError: as ``read_npy``, or the archive is compressed, lies or repeats a name.
    """
    members = read_directory(path)
    check_stored(path, members)
    names = [member.filename for member in members]
    if other := [name for name in names if not name.endswith(".npy")]:
        raise LoadError(f"{path}: {shown(other[0])} is no .npy array; save it with numpy.savez.")
    with zipfile.ZipFile(path) as archive:
        return {name.removesuffix(".npy"): _member(archive, name, path) for name in names}


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> Tensor:
    try:
        content = archive.read(name)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise LoadError(f"{path}: damaged ({reason(error)}); save it again.") from None
    return _tensor(content, f"{path}:{shown(name)}")


def _tensor(content: bytes, where: str) -> Tensor:
    stream = io.BytesIO(content)
    try:
        shape, by_columns, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
    except (KeyError, ValueError, RecursionError, MemoryError) as error:
        raise LoadError(
            f"{where}: no array header ({reason(error)}); save it with numpy.save."
        ) from None
    if dtype.kind not in _NUMBERS:
        raise LoadError(
            f"{where}: holds {shown(dtype)}, and only plain numbers are read; "
            "convert it where you trust it and save the numbers."
        )
    promised, held = math.prod(shape) * dtype.itemsize, len(content) - stream.tell()
    if min(shape, default=0) < 0 or promised != held:
        raise LoadError(
            f"{where}: the header promises shape {shape} of {dtype}, {promised} bytes, and "
            f"{held} are there; save the array again."
        )
    flat = np.frombuffer(bytearray(stream.read()), dtype=dtype)
    array = flat.reshape(shape, order="F" if by_columns else "C")
    try:
        return torch.from_numpy(array.astype(dtype.newbyteorder("="), order="C"))
    except TypeError as error:
        raise LoadError(f"{where}: {reason(error)}; save it as float64.") from None
