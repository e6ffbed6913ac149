"""Reads torch archives (``.pt``, ``.pth``, ``.bin``, TorchScript) without unpickling them.

``read_directory`` and ``check_stored`` check the zip directory first. ``archive_inventory`` lets a
child process read the list of tensors, with limits of time and memory. ``view`` makes a tensor of
stored bytes only if its shape and stride fit them. ``read_archive`` does all of this.
"""

import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.loading.child_processes import Child, ChildStopped
from dsf.loading.errors import LoadError, reason, shown

_MOST_MEMBERS = 200_000


def read_directory(path: Path) -> list[zipfile.ZipInfo]:
    """The members of a zip archive, whose names must all differ.

    Raises:
        LoadError: not a zip archive, too many members, or a name that appears twice.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise LoadError(
            f"{path}: not a zip archive ({reason(error)}); save it again, best as safetensors."
        ) from None
    if len(members) > _MOST_MEMBERS:
        raise LoadError(f"{path}: more than {_MOST_MEMBERS} members; save it as safetensors.")
    counts = Counter(member.filename for member in members)
    if len(counts) < len(members):
        raise LoadError(
            f"{path}: {shown(counts.most_common(1)[0][0])} appears twice, so that programs may "
            "read different contents; save the archive again."
        )
    return members


def check_stored(path: Path, members: Iterable[zipfile.ZipInfo]) -> None:
    """Raise unless members are stored uncompressed and their sizes fit into the file.

    Raises:
        LoadError: naming the compressed or encrypted member, or the sizes.
    """
    total, size = 0, path.stat().st_size
    for member in members:
        total += member.file_size
        plain = member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1
        if not plain or member.compress_size != member.file_size:
            raise LoadError(
                f"{path}: {shown(member.filename)} is compressed or encrypted, which can hide any "
                "size; save it uncompressed, best as safetensors."
            )
    if total > size:
        raise LoadError(
            f"{path}: members claim {total} bytes in a file of {size}, as decompression bombs do; "
            "save it again, best as safetensors."
        )


_MOST_EXPANSION = 8


def check_deflated(path: Path, members: Iterable[zipfile.ZipInfo]) -> None:
    """Raise unless members are stored or moderately compressed, and their bytes fit into the file.

    Trained weights hardly compress; what claims to become eight times as large is refused.

    Raises:
        LoadError: naming the member that is encrypted, compressed by another method or grows too
            much, or the sizes.
    """
    total, size = 0, path.stat().st_size
    for member in members:
        total += member.compress_size
        known = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        if not known or member.flag_bits & 1:
            raise LoadError(
                f"{path}: {shown(member.filename)} is encrypted or compressed by an unusual "
                "method; save the file with numpy.savez."
            )
        if member.file_size > _MOST_EXPANSION * max(member.compress_size, _HEADER_BYTES):
            raise LoadError(
                f"{path}: {shown(member.filename)} claims {member.file_size} bytes in "
                f"{member.compress_size}, as decompression bombs do; if you trust it, save it "
                "uncompressed with numpy.savez."
            )
    if total > size:
        raise LoadError(
            f"{path}: members claim {total} bytes in a file of {size}, as decompression bombs do; "
            "save it again, best as safetensors."
        )


_HEADER_BYTES = 128  # of an array, which compress well however small the array is
_NUMBERS = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16),
        *(torch.float32, torch.float64, torch.complex64, torch.complex128),
    )
}
_MOST_AXES = 32
_LARGEST = 2**62


def view(block: bytearray, entry: dict[str, Any], where: str) -> Shaped[Tensor, "..."]:
    """The tensor that ``entry`` describes by ``dtype``, ``shape``, ``stride`` and ``offset``.

    Raises:
        LoadError: the dtype is not supported, a size or stride is no count, an element lies outside
            the block, the block has another size than claimed, or elements overlap.
    """
    dtype = _NUMBERS.get(entry["dtype"])
    if dtype is None:
        raise LoadError(
            f"{where}: dtype {shown(entry['dtype'])} is not supported; convert it to float."
        )
    shape, stride, offset = entry["shape"], entry["stride"], entry["offset"]
    if not _are_layout(shape, stride, offset):
        raise LoadError(f"{where}: its shape or stride is not a list of counts; save it again.")
    claimed = entry["storage"]["size"] * _element_size(entry["storage"]["kind"], dtype)
    last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) + offset
    reaches = 0 if 0 in shape else (last + 1) * dtype.itemsize
    if claimed != len(block) or reaches > len(block):
        raise LoadError(
            f"{where}: shape {shape} with stride {stride} reaches {reaches} bytes and its storage "
            f"claims {claimed}, but the archive has {len(block)}; save it again."
        )
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    if _overlap(shape, stride):
        raise LoadError(
            f"{where}: shape {shape} with stride {stride} repeats elements, so a small file "
            "becomes a large tensor; save it with .contiguous()."
        )
    flat = torch.frombuffer(block, dtype=dtype, count=len(block) // dtype.itemsize)
    return flat.as_strided(shape, stride, offset)


def _are_layout(shape: Sequence[object], stride: Sequence[object], offset: object) -> bool:
    numbers = (*shape, *stride, offset)
    if not all(type(number) is int and 0 <= number < _LARGEST for number in numbers):
        return False
    fits = prod(size for size in shape if isinstance(size, int) and size) < _LARGEST
    return fits and len(shape) == len(stride) <= _MOST_AXES


def _element_size(kind: str, dtype: torch.dtype) -> int:
    return 1 if kind == "storage.UntypedStorage" else dtype.itemsize


def _overlap(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether two indices may address one element.

    They cannot if every stride exceeds what the axes with smaller strides reach together, as in a
    dense tensor.
    """
    reach = 0
    for step, size in sorted(zip(stride, shape, strict=True)):
        if size > 1:
            if step <= reach:
                return True
            reach += (size - 1) * step
    return False


_BYTES_OF_MEMORY = 2 * 1024**3
_SECONDS = 60
_PROGRAM_OF_CHILD = "dsf.loading.archive_reader.process"


def archive_inventory(
    path: Path,
    member: str,
    *,
    torchscript: bool,
    seconds: int = _SECONDS,
    bytes_of_memory: int = _BYTES_OF_MEMORY,
) -> dict[str, dict[str, Any]]:
    """The tensors that ``member`` of the archive lists, by name, as plain data.

    Raises:
        LoadError: the archive was refused, or reading its list reached a limit.
    """
    request = {
        "path": str(path),
        "member": member,
        "torchscript": torchscript,
        "seconds": seconds,
        "bytes_of_memory": bytes_of_memory,
    }
    try:
        answer = Child(_PROGRAM_OF_CHILD, request).answer()
    except ChildStopped as error:
        raise LoadError(
            f"{path}: the process that reads its list of tensors {error}; "
            "if you trust it, convert it to safetensors and load that."
        ) from None
    if "refused" in answer:
        raise LoadError(
            f"{path}: refused, because {answer['refused']}; if you trust it, convert it to "
            "safetensors and load that."
        )
    tensors: dict[str, dict[str, Any]] = answer["tensors"]
    return tensors


_MOST_PROGRAM_BYTES = 64 * 1024**2
_PROGRAM = "data.pkl"


def read_archive(path: Path, *, torchscript: bool) -> dict[str, Tensor]:
    """Every tensor of a torch archive, by dotted name; views share memory as they did when saved.

    No code of the archive runs and no global that it names is imported. Of TorchScript, too, only
    the list of attributes is read, not the source code.

    Raises:
        LoadError: a compressed archive or a decompression bomb, TorchScript without
            ``torchscript``, a pickle that does more than list tensors, or a tensor that does not
            fit its storage.
    """
    root = _root(path, torchscript=torchscript)
    listed = archive_inventory(path, root + _PROGRAM, torchscript=torchscript)
    if not listed:
        raise LoadError(
            f"{path}: holds no tensors (a frozen TorchScript archive has them in its code); "
            "save the state_dict() as safetensors."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            _check_byte_order(archive, root, path)
            return _tensors(archive, root, listed, path)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise LoadError(f"{path}: damaged ({reason(error)}); download or save it again.") from None


def _root(path: Path, *, torchscript: bool) -> str:
    """The root folder inside the archive, after its directory has been checked."""
    members = read_directory(path)
    code = [member for member in members if "/code/" in member.filename]
    if code and not torchscript:
        raise LoadError(
            f"{path}: a TorchScript archive, which carries code; pass allow_torchscript=True to "
            "read its parameters (the code is not run)."
        )
    check_stored(path, [member for member in members if member not in code])
    programs = [member for member in members if _is_program(member.filename)]
    if len(programs) != 1 or programs[0].file_size > _MOST_PROGRAM_BYTES:
        raise LoadError(
            f"{path}: no archive of torch.save, or its list of tensors has more than "
            f"{_MOST_PROGRAM_BYTES} bytes; save it as safetensors."
        )
    return programs[0].filename.removesuffix(_PROGRAM)


def _is_program(name: str) -> bool:
    return name.count("/") == 1 and name.endswith("/" + _PROGRAM)


def _check_byte_order(archive: zipfile.ZipFile, root: str, path: Path) -> None:
    order = root + "byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise LoadError(
            f"{path}: saved on a big-endian machine; save it again on a little-endian one."
        )


def _tensors(
    archive: zipfile.ZipFile, root: str, listed: dict[str, dict[str, Any]], path: Path
) -> dict[str, Tensor]:
    blocks: dict[str, bytearray] = {}
    tensors = {}
    for name, entry in listed.items():
        member = f"{root}data/{entry['storage']['member']}"
        if member not in blocks:
            blocks[member] = _block(archive, member, path)
        tensors[name] = view(blocks[member], entry, f"{path}:{shown(name)}")
    return tensors


def _block(archive: zipfile.ZipFile, member: str, path: Path) -> bytearray:
    if member not in archive.NameToInfo:
        raise LoadError(f"{path}: {shown(member)} is missing; download or save it again.")
    return bytearray(archive.read(member))
