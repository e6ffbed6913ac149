"""Reads the tensors in one untrusted file: safetensors, NumPy arrays or torch archives.

``read_safetensors``, ``read_npy`` and ``read_npz`` each read one kind of file, after checking its
header against the size of the file. ``read_tensors`` chooses by the file's ending.
``non_finite_weights`` lists the weights of a model that are NaN or infinite.
"""

import io
import math
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dsf.loading.archives import check_deflated, read_archive, read_directory
from dsf.loading.errors import LoadError, reason, shown
from dsf.loading.library_versions import check_torch
from dsf.loading.safetensors_header import check_header


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, by name.

    Raises:
        LoadError: the header is too long, lists more than 100,000 tensors, is not JSON, or gives
            sizes that differ from those in the file.
    """
    check_header(path)
    return read_named(path, tensor_names(path))


def tensor_names(path: Path) -> list[str]:
    """The names of the tensors in a safetensors file whose header was checked.

    Raises:
        LoadError: the header and the data disagree.
    """
    with _opened(path) as file:
        return list(file.keys())


def read_named(path: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Some tensors of a safetensors file whose header was checked.

    Raises:
        LoadError: the header and the data disagree.
    """
    with _opened(path) as file:
        # Copies, since a tensor on the mapped file would change with the file, or crash.
        return {name: file.get_tensor(name).clone() for name in names}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise LoadError(
            f"{path}: the header and the data disagree ({reason(error)}); "
            "download or save the file again."
        ) from None


_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_NUMBERS = "biufc"


def read_npy(path: Path) -> dict[str, Tensor]:
    """The array of an ``.npy`` file, under the file's stem.

    Raises:
        LoadError: it holds Python objects, records or text, or its header does not fit the file.
    """
    return {path.stem: _tensor(path.read_bytes(), str(path))}


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of an ``.npz`` file, by name; compressed ones if they grow at most eightfold.

    Raises:
        LoadError: as ``read_npy``, or the archive claims to grow more, claims wrong sizes or
            repeats a name.
    """
    members = read_directory(path)
    check_deflated(path, members)
    names = [member.filename for member in members]
    if other := [name for name in names if not name.endswith(".npy")]:
        raise LoadError(
            f"{path}: {shown(other[0])} is not an .npy array; save the file with numpy.savez."
        )
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
            "if you trust the file, convert it and save the numbers."
        )
    promised, present = math.prod(shape) * dtype.itemsize, len(content) - stream.tell()
    if min(shape, default=0) < 0 or promised != present:
        raise LoadError(
            f"{where}: the header gives shape {shape} of {dtype}, which takes {promised} bytes, "
            f"but the file has {present}; save the array again."
        )
    flat = np.frombuffer(bytearray(stream.read()), dtype=dtype)
    array = flat.reshape(shape, order="F" if by_columns else "C")
    try:
        return torch.from_numpy(array.astype(dtype.newbyteorder("="), order="C"))
    except TypeError as error:
        raise LoadError(f"{where}: {reason(error)}; save it as float64.") from None


def non_finite_weights(model: nn.Module) -> tuple[str, ...]:
    """Names of the parameters and stored buffers that hold NaN or an infinity, in order."""
    return tuple(name for name, tensor in model.state_dict().items() if not all_finite(tensor))


def all_finite(tensor: Shaped[Tensor, "..."]) -> bool:
    """Whether every element is finite, computed without a second tensor of this size."""
    if tensor.numel() == 0 or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    least, most = torch.aminmax(real.float() if real.itemsize == 1 else real)
    return bool(torch.isfinite(least) and torch.isfinite(most))


_READERS = {".safetensors": read_safetensors, ".npz": read_npz, ".npy": read_npy}
_ARCHIVES = {".bin", ".ckpt", ".jit", ".pt", ".pth"}


def read_tensors(
    path: str | Path, *, allow_pickle_archive: bool = False, allow_torchscript: bool = False
) -> dict[str, Tensor]:
    """Every tensor in a ``.safetensors``, ``.npz``, ``.npy`` or torch archive, by name.

    Whatever is allowed, nothing is unpickled and no code in the file runs: a child process with
    limits of memory and time interprets the pickle opcodes of a torch archive and returns only a
    list of plain tensors. Names inside nested dictionaries are joined by dots.

    Args:
        path: the file; its ending gives the format.
        allow_pickle_archive: also read files written by ``torch.save``.
        allow_torchscript: also read the parameters in files written by ``torch.jit.save``.

    Raises:
        LoadError: the file is missing, of another kind, or refused.
    """
    check_torch()
    path = Path(path)
    if not path.is_file():
        raise LoadError(f"{path}: there is no such file; check the path.")
    if path.suffix in _READERS:
        return _READERS[path.suffix](path)
    if path.suffix not in _ARCHIVES:
        raise LoadError(
            f"{path}: the ending {path.suffix!r} is none of {', '.join(_READERS)} and "
            f"{', '.join(sorted(_ARCHIVES))}; save the tensors as safetensors."
        )
    if not (allow_pickle_archive or allow_torchscript):
        raise LoadError(
            f"{path}: torch archives are pickles; convert it to safetensors if you trust it, or "
            "pass allow_pickle_archive=True to read its list of tensors without unpickling it."
        )
    return read_archive(path, torchscript=allow_torchscript)
