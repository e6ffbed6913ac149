"""Torch archives (``.pt``, ``.pth``, ``.bin``, TorchScript), read without unpickling them.

The zip directory is judged first. A child process follows the opcodes and lists the tensors; here
each listed tensor is checked against the bytes that are there, and only then made.
"""

import zipfile
from pathlib import Path
from typing import Any

from torch import Tensor

from dsf.inspection.loading.child import archive_inventory
from dsf.inspection.loading.errors import LoadError, reason, shown
from dsf.inspection.loading.views import view
from dsf.inspection.loading.zip_directory import check_stored, read_directory

_MOST_PROGRAM_BYTES = 64 * 1024**2
_PROGRAM = "data.pkl"


def read_archive(path: Path, *, torchscript: bool) -> dict[str, Tensor]:
    """Every tensor of a torch archive, by dotted name; views share memory as they did when saved.

    No code of the archive runs and no global it names is imported: for TorchScript too, only the
    list of attributes is read, and the source it carries stays packed.

    Raises:
        LoadError: a compressed or exploding archive, TorchScript where it was not asked for, a
            pickle that does more than list tensors, or a tensor that does not fit its storage.
    """
    root = _root(path, torchscript=torchscript)
    listed = archive_inventory(path, root + _PROGRAM, torchscript=torchscript)
    if not listed:
        raise LoadError(
            f"{path}: no tensors in it (a frozen TorchScript archive folds them into its code); "
            "save the state_dict() as safetensors."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            _check_byte_order(archive, root, path)
            return _tensors(archive, root, listed, path)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise LoadError(f"{path}: damaged ({reason(error)}); download or save it again.") from None


def _root(path: Path, *, torchscript: bool) -> str:
    """The folder inside the archive, once its directory is found harmless."""
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
            f"{path}: no archive of torch.save, or a list of tensors above {_MOST_PROGRAM_BYTES} "
            "bytes; save it as safetensors."
        )
    return programs[0].filename.removesuffix(_PROGRAM)


def _is_program(name: str) -> bool:
    return name.count("/") == 1 and name.endswith("/" + _PROGRAM)


def _check_byte_order(archive: zipfile.ZipFile, root: str, path: Path) -> None:
    order = root + "byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise LoadError(f"{path}: saved on a big-endian machine; save it again on a usual one.")


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
