"""Reads the tensors of weight files with the libraries that wrote them.

safetensors and ``torch.load(weights_only=True)`` run no code and hold shapes against the bytes that
are there. Added here: compressed archives are refused, whose members may grow to any size; tensors
must be plain numbers in memory of their own size, since torch also restores sparse tensors that
point outside their values and views of 16 bytes with a million rows; weights that are not finite
are listed.
"""

import hashlib
import math
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from dsf.loading.errors import LoadError, listed, reason, shown
from dsf.loading.folder import SAFETENSORS, opened_safetensors

_NUMBERS = {
    torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
    torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16,
    torch.float32, torch.float64, torch.complex64, torch.complex128,
}  # fmt: skip
_CURE = "if you trust it, convert it to safetensors and load that"


def read_weights(files: list[Path]) -> dict[str, Tensor]:
    """Return the tensors of all files together, by name."""
    weights: dict[str, Tensor] = {}
    for path in files:
        is_safe = path.suffix == SAFETENSORS
        tensors = read_named(path, tensor_names(path)) if is_safe else read_archive(path)
        if twice := weights.keys() & tensors.keys():
            raise LoadError(
                f"{path}: {listed(sorted(twice))} is also in another file; remove one of them."
            )
        weights |= tensors
    return weights


def tensor_names(path: Path) -> list[str]:
    with opened_safetensors(path, "pt") as file:
        return list(file.keys())


def count_numbers(path: Path) -> int:
    with opened_safetensors(path, "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def read_named(path: Path, names: list[str]) -> dict[str, Tensor]:
    """Return some tensors of a safetensors file, as copies.

    A tensor on the mapped file would change with the file, or end the process.
    """
    with opened_safetensors(path, "pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in names}
    for name, tensor in tensors.items():
        _check_plain(tensor, f"{path}:{shown(name)}")
    return tensors


def read_archive(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file that ``torch.save`` wrote, with ``weights_only``."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise LoadError(
            f"{path}: not a zip archive ({reason(error)}); save it again, best as safetensors."
        ) from None
    is_stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if not is_stored or sum(member.file_size for member in members) > path.stat().st_size:
        raise LoadError(
            f"{path}: is compressed, or its members claim more bytes than it has, so that its size "
            "says nothing; save it uncompressed, best as safetensors."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:  # torch raises anything on damaged archives
        raise LoadError(
            f"{path}: torch.load refuses it ({_torch_reason(error)}); {_CURE}."
        ) from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise LoadError(f"{path}: holds no table of names and tensors; {_CURE}.")
    for name, tensor in found.items():
        _check_plain(tensor, f"{path}:{shown(name)}")
    return dict(found)


def _torch_reason(error: Exception) -> str:
    """Skip the advice to load with ``weights_only=False``, which torch puts around its reason."""
    text = str(error).partition("\n\nCheck the documentation")[0]
    if not text.startswith("Weights only load failed"):
        return reason(error)
    return shown(text.rpartition("WeightsUnpickler error: ")[2].strip().splitlines()[-1])


def _check_plain(tensor: Any, where: str) -> None:
    is_tensor = type(tensor) in (Tensor, nn.Parameter)
    kind = str(tensor.dtype) if is_tensor else type(tensor).__name__
    is_strided = is_tensor and tensor.layout == torch.strided and not tensor.is_nested
    is_plain = is_strided and tensor.device.type == "cpu" and tensor.dtype in _NUMBERS
    if not is_plain or tensor.is_conj() or tensor.is_neg():
        raise LoadError(f"{where}: expected a plain tensor of numbers, got {shown(kind)}; {_CURE}.")
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        raise LoadError(
            f"{where}: shape {tuple(tensor.shape)} repeats the elements of a smaller tensor, so "
            "that a small file becomes a large one; save it with .contiguous()."
        )


def fingerprint(files: list[Path]) -> str:
    """Return the SHA-256, in hexadecimal, of the names and contents of ``files``."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{content}  {path.name}\n".encode())
    return total.hexdigest()


def non_finite_weights(model: nn.Module) -> tuple[str, ...]:
    """Return the names of parameters and stored buffers that hold NaN or an infinity, in order."""
    return tuple(name for name, tensor in model.state_dict().items() if not all_finite(tensor))


def all_finite(tensor: Shaped[Tensor, "..."]) -> bool:
    """Return whether every element is finite, without allocating a second tensor of this size."""
    if tensor.numel() == 0 or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    least, most = torch.aminmax(real.float() if real.itemsize == 1 else real)
    return bool(torch.isfinite(least) and torch.isfinite(most))
