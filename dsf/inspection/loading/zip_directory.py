"""Zip archives: the directory is judged before any member is read."""

import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from dsf.inspection.loading.errors import LoadError, reason, shown

_MOST_MEMBERS = 200_000


def read_directory(path: Path) -> list[zipfile.ZipInfo]:
    """What a zip archive lists, every name once.

    Raises:
        LoadError: not a zip archive, too many members, or a name that is there twice.
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
            f"{path}: {shown(counts.most_common(1)[0][0])} is there twice, so readers may disagree "
            "about it; save the archive again."
        )
    return members


def check_stored(path: Path, members: Iterable[zipfile.ZipInfo]) -> None:
    """Raise unless members are stored as they are and add up to no more than the file.

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
            f"{path}: members claim {total} bytes in a file of {size}, as archives do that "
            "explode; save it again, best as safetensors."
        )
