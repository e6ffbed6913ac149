"""Tensors on disk instead of in memory, in one file that no crash leaves behind.

``DiskStore.put`` takes a value apart: its tensors are written into a temporary file without a name,
which the operating system removes when the process ends, however it ends. ``Stored.read`` puts the
value together again, with tensors of the same bits and strides.
"""

import copy
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from threading import Lock
from typing import Any, NoReturn, cast
from weakref import finalize

import torch
from torch import Tensor, nn

from dsf.inspection.errors import InspectionMemoryError


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in the file, and what it is to be again."""

    offset: int
    numbers: int
    size: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class DiskStore:
    """One temporary file for many values; what was read last stays in memory."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="dsf-", buffering=0)  # noqa: SIM115  # kept open
        finalize(self, self._file.close)
        self._end = 0
        self._lock = Lock()
        self._latest: tuple[Any, Any] = (None, None)

    def put(self, value: Any) -> "Stored":
        """``value`` with its tensors on disk: in tuples, lists, dictionaries and data classes.

        A tensor that occurs twice is written once and read as one.

        Raises:
            InspectionMemoryError: if the disk is full.
        """
        places: dict[int, _Place] = {}

        def written(tensor: Tensor) -> _Place:
            if id(tensor) not in places:
                places[id(tensor)] = self._write(tensor)
            return places[id(tensor)]

        return Stored(self, _mapped(value, Tensor, written))

    def get(self, stored: "Stored") -> Any:
        """The value again."""
        latest, value = self._latest
        if latest is stored:
            return value
        self._latest = (None, None)
        found: dict[int, Tensor] = {}

        def read(place: _Place) -> Tensor:
            if id(place) not in found:
                found[id(place)] = self._read(place)
            return found[id(place)]

        value = _mapped(stored.tree, _Place, read)
        self._latest = (stored, value)
        return value

    def forget(self) -> None:
        """Keep nothing in memory."""
        self._latest = (None, None)

    @property
    def written(self) -> int:
        """How many bytes lie on disk."""
        return self._end

    def _write(self, tensor: Tensor) -> _Place:
        plain = tensor.detach().resolve_conj().resolve_neg()
        sizes = zip(plain.shape, plain.stride(), strict=True)
        numbers = 1 + sum((size - 1) * stride for size, stride in sizes) if plain.numel() else 0
        span = plain.as_strided((numbers,), (1,)).cpu().contiguous().view(torch.uint8)
        with self._lock:
            offset = self._end
            free = shutil.disk_usage(tempfile.gettempdir()).free
            if span.numel() > free:
                raise InspectionMemoryError(
                    f"the folder for temporary files, {tempfile.gettempdir()}, has "
                    f"{free / 1e9:.1f} GB left, but the next part of the inspection needs "
                    f"{span.numel() / 1e9:.1f} GB. Set TMPDIR to a folder with more room, or "
                    "choose fewer layers (layers=..., on the command line --layers)."
                )
            self._file.seek(offset)
            left = _bytes_of(span)
            while left:
                left = left[self._file.write(left) :]
            self._end += span.numel()
        kind, device = plain.dtype, tensor.device
        return _Place(offset, numbers, plain.shape, plain.stride(), kind, device)

    def _read(self, place: _Place) -> Tensor:
        span = torch.empty(place.numbers * place.dtype.itemsize, dtype=torch.uint8)
        left = _bytes_of(span)
        with self._lock:
            self._file.seek(place.offset)
            while left:
                left = left[self._file.readinto(left) :]
        flat = span.view(place.dtype).to(place.device)
        return flat.as_strided(place.size, place.strides)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an inspection whose layers lie on disk cannot be pickled or copied. Take what is "
            "needed out of it (maps, measures, mixers), or inspect with more memory=..."
        )


@dataclass(frozen=True, eq=False)
class Stored:
    """A value whose tensors lie on disk."""

    store: DiskStore
    tree: Any

    def read(self) -> Any:
        """The value, in memory."""
        return self.store.get(self)


def _bytes_of(span: Tensor) -> memoryview:
    return memoryview(cast("Any", span.numpy())) if span.numel() else memoryview(b"")


def _mapped(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """``value`` with every part of one kind changed, in containers and data classes."""
    if isinstance(value, kind):
        return change(value) if type(value) in (kind, nn.Parameter) else value
    if type(value) in (tuple, list):
        return type(value)(_mapped(part, kind, change) for part in value)
    if type(value) is dict:
        return {name: _mapped(part, kind, change) for name, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type | _Place):
        made = copy.copy(value)
        for field in fields(value):
            part = getattr(value, field.name)
            object.__setattr__(made, field.name, _mapped(part, kind, change))
        return made
    return value
