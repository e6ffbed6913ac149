"""Tensors from one file, by the kind of file."""

from pathlib import Path

from torch import Tensor

from dsf.inspection.loading.archives import read_archive
from dsf.inspection.loading.arrays import read_npy, read_npz
from dsf.inspection.loading.errors import LoadError
from dsf.inspection.loading.tensors import read_safetensors
from dsf.inspection.loading.versions import check_torch

_READERS = {".safetensors": read_safetensors, ".npz": read_npz, ".npy": read_npy}
_ARCHIVES = {".bin", ".ckpt", ".jit", ".pt", ".pth"}


def read_tensors(
    path: str | Path, *, allow_pickle_archive: bool = False, allow_torchscript: bool = False
) -> dict[str, Tensor]:
    """Every tensor in a ``.safetensors``, ``.npz``, ``.npy`` or torch archive, by name.

    Nothing is unpickled and no code in the file runs, whatever is allowed: the opcodes of a torch
    archive are followed in a child process with limits of memory and time, and only a list of
    plain tensors comes back. Names inside nested tables are joined by dots.

    Args:
        path: the file; its ending says what it is.
        allow_pickle_archive: also read what ``torch.save`` wrote.
        allow_torchscript: also read the parameters of what ``torch.jit.save`` wrote.

    Raises:
        LoadError: the file is missing, of another kind, or refused.
    """
    check_torch()
    path = Path(path)
    if not path.is_file():
        raise LoadError(f"{path}: no file there; check the path.")
    if path.suffix in _READERS:
        return _READERS[path.suffix](path)
    if path.suffix not in _ARCHIVES:
        raise LoadError(
            f"{path}: the ending {path.suffix!r} is none of {', '.join(_READERS)} and "
            f"{', '.join(sorted(_ARCHIVES))}; save the tensors as safetensors."
        )
    if not (allow_pickle_archive or allow_torchscript):
        raise LoadError(
            f"{path}: torch archives are pickles; convert it to safetensors where you trust it, or "
            "pass allow_pickle_archive=True to have its list of tensors read without unpickling."
        )
    return read_archive(path, torchscript=allow_torchscript)
