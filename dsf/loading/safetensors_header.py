"""The header of a safetensors file, held against the size of the file before any tensor is read.

It needs no torch, so that a download that broke off is told at once.
"""

import math
from pathlib import Path
from typing import Any

from dsf.loading.bounded_json import parse_object
from dsf.loading.errors import LoadError, shown

MOST_TENSORS = 100_000
_MOST_HEADER_BYTES = 16 * 1024**2
_LENGTH_BYTES = 8
_LARGEST = 2**62
_KINDS = {
    *("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"),
    *("F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64", "C64"),
}


def check_header(path: Path) -> int:
    """Raise unless the header of a safetensors file fits the file; its tensors' numbers.

    Raises:
        LoadError: the header is too long, lists more than 100,000 tensors, is not JSON, has a
            tensor of an unknown type or with a shape that is no list of counts, or says that there
            are more bytes than there are.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or length > min(_MOST_HEADER_BYTES, size - _LENGTH_BYTES):
            raise LoadError(
                f"{path}: the header claims {length} bytes in a file of {size} (at most "
                f"{_MOST_HEADER_BYTES} are read); download or save the file again."
            )
        header = parse_object(file.read(length), str(path))
    if len(header) > MOST_TENSORS:
        raise LoadError(
            f"{path}: lists {len(header)} tensors, where at most {MOST_TENSORS} are read; "
            "check that this is the right file."
        )
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    numbers = sum(_numbers(entry, f"{path}:{shown(name)}") for name, entry in tensors.items())
    claimed = max(map(_end, tensors.values()), default=0)
    if claimed > (there := size - _LENGTH_BYTES - length):
        raise LoadError(
            f"{path}: is cut short: it has {there} bytes of tensors, but its header tells of "
            f"{claimed}; download or save the file again."
        )
    return numbers


def _end(entry: dict[str, Any]) -> int:
    """Where the bytes of a tensor end, if the header says so; what is no number is told later."""
    offsets = entry.get("data_offsets")
    end = offsets[-1] if isinstance(offsets, list) and offsets else 0
    return end if type(end) is int else 0


def _numbers(entry: Any, where: str) -> int:
    """How many numbers one entry of a header claims."""
    table = entry if isinstance(entry, dict) else {}
    kind, shape = table.get("dtype"), table.get("shape")
    if not isinstance(kind, str) or kind not in _KINDS or not isinstance(shape, list):
        raise LoadError(
            f"{where}: described as {shown(entry)}, where a shape and one of the types "
            f"{', '.join(sorted(_KINDS))} are expected; save the tensors again."
        )
    if not all(type(size) is int and 0 <= size < _LARGEST for size in shape):
        raise LoadError(f"{where}: its shape {shown(shape)} is no list of counts; save it again.")
    return math.prod(shape)
