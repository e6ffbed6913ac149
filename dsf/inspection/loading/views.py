"""A tensor on bytes that a stranger describes: made only if the description fits the bytes."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.inspection.loading.errors import LoadError, shown

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
        LoadError: a type without plain numbers, sizes that are no counts, elements outside the
            block, a block of another size than claimed, or elements that overlap.
    """
    dtype = _NUMBERS.get(entry["dtype"])
    if dtype is None:
        raise LoadError(
            f"{where}: numbers of type {shown(entry['dtype'])} are not read; convert them to float."
        )
    shape, stride, offset = entry["shape"], entry["stride"], entry["offset"]
    if not _are_layout(shape, stride, offset):
        raise LoadError(f"{where}: its shape or stride is no list of counts; save it again.")
    claimed = entry["storage"]["size"] * _element_size(entry["storage"]["kind"], dtype)
    last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) + offset
    reaches = 0 if 0 in shape else (last + 1) * dtype.itemsize
    if claimed != len(block) or reaches > len(block):
        raise LoadError(
            f"{where}: shape {shape} with stride {stride} reaches {reaches} bytes and its storage "
            f"claims {claimed}, but {len(block)} are there; save it again."
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
    """Whether two indices may reach one element: an axis steps no further than smaller ones reach.

    Axes that pass here are nested like those of a dense tensor, so nothing is ever counted twice.
    """
    reach = 0
    for step, size in sorted(zip(stride, shape, strict=True)):
        if size > 1:
            if step <= reach:
                return True
            reach += (size - 1) * step
    return False
