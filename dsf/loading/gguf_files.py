"""Reads GGUF files, which hold a model's settings, tokenizer and often quantised weights in one.

The readers of the ``gguf`` package and of the model library trust every count, length and offset in
the header, and need seconds for a vocabulary. ``read_gguf`` reads the header once, compares it
with the size of the file, and replaces their reader: the model library maps names and settings to
its own, and ``gguf`` expands the weights.
"""

import functools
import hashlib
import math
import mmap
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from dsf.loading.building import Blueprint, blueprint, guarded, skeleton
from dsf.loading.errors import (
    LoadError,
    gguf_converter,
    gguf_library,
    listed,
    model_library,
    reason,
    shown,
)
from dsf.loading.folder import MAX_TENSORS, Settings, acceptable

_MAX_SETTINGS = 10_000
_MAX_ITEMS = 4_000_000  # in all lists together: vocabularies have some 300,000 tokens
_MAX_NAME_BYTES = 65_535
_MAX_AXES = 4
MAX_JOINED_ROWS = 64
_NOT_READ = "cannot be read ({}); download it again."
_STRING, _ARRAY = 8, 9
_TYPES = {
    0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4",
    6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
"""The types of numbers in settings, as NumPy names them."""


class Field(NamedTuple):
    """A setting in the form of ``gguf.ReaderField``: numbers as rows of one, texts as bytes."""

    types: list[int]
    parts: list[Any] | np.ndarray

    @property
    def data(self) -> range:
        return range(len(self.parts))


class StoredTensor(NamedTuple):
    """A tensor in the file: ``begin`` and ``size`` are bytes, ``shape`` has the rows last."""

    name: str
    format: Any
    shape: tuple[int, ...]
    begin: int
    size: int


@dataclass(frozen=True)
class GgufFile:
    """The header of a GGUF file, after it was held against the file.

    Attributes:
        fields: the settings, by name.
        header_hash: SHA-256 of everything before the weights, in hexadecimal.
    """

    path: Path
    fields: dict[str, Field]
    tensors: list[StoredTensor]
    header_hash: str

    @functools.cached_property
    def parsed(self) -> dict[str, Any]:
        """What the model library makes of the settings."""
        converter = gguf_converter()
        with (
            guarded(self.path, _NOT_READ),
            patch.object(gguf_library(), "GGUFReader", lambda _: self),
        ):
            parsed: dict[str, Any] = converter.load_gguf_checkpoint(str(self.path))
        return parsed


def read_gguf(path: Path) -> GgufFile:
    """Read the header of a GGUF file."""
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return _read(_Header(path, content))
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        if isinstance(error, LoadError):
            raise
        raise LoadError(f"{path}: not a GGUF file ({reason(error)}); download it again.") from None


class _Header:
    """The bytes of a header, read one after the other."""

    def __init__(self, path: Path, content: mmap.mmap):
        self.path, self.content, self.at, self.items = path, content, 0, 0

    def take(self, size: int) -> int:
        """Advance by ``size`` bytes, which must be there; return where they begin."""
        begin, left = self.at, len(self.content) - self.at
        if size > left:
            raise LoadError(
                f"{self.path}: its header claims {size} bytes at byte {begin}, where {left} are "
                "left; download the file again."
            )
        self.at += size
        return begin

    def number(self, format: str) -> int:
        size = struct.calcsize(format)
        (value,) = struct.unpack_from(f"<{format}", self.content, self.take(size))
        return int(value)

    def text(self, most: int | float = math.inf) -> bytes:
        size = self.number("Q")
        if size > most:
            raise LoadError(
                f"{self.path}: a name has {size} bytes, where at most {most} are read; "
                "download the file again."
            )
        begin = self.take(size)
        return self.content[begin : self.at]

    def name(self) -> str:
        return self.text(_MAX_NAME_BYTES).decode("utf-8")

    def numbers(self, kind: int, count: int) -> np.ndarray:
        """Return numbers as rows of one, of which ``gguf`` makes its parts."""
        dtype = np.dtype(_TYPES[kind])
        begin = self.take(count * dtype.itemsize)
        return np.frombuffer(self.content[begin : self.at], dtype).reshape(-1, 1)

    def field(self) -> Field:
        kind = self.number("I")
        if kind in _TYPES:
            return Field([kind], self.numbers(kind, 1))
        if kind == _STRING:
            return Field([kind], [self.text()])
        if kind != _ARRAY:
            raise LoadError(f"{self.path}: has a setting of unknown type {kind}; convert it again.")
        kind, count = self.number("I"), self.number("Q")
        self.items += count
        if self.items > _MAX_ITEMS:
            raise LoadError(
                f"{self.path}: its lists have more than {_MAX_ITEMS} entries, which no vocabulary "
                "needs; check that this is the right file."
            )
        if kind in _TYPES:
            return Field([_ARRAY, kind], self.numbers(kind, count))
        if kind != _STRING:
            raise LoadError(f"{self.path}: has a list of type {kind}; convert the model again.")
        return Field([_ARRAY, kind], [self.text() for _ in range(count)])


def _read(header: _Header) -> GgufFile:
    path, magic = header.path, header.content[:4]
    header.take(4)
    version = header.number("I")
    if magic != b"GGUF" or version not in (2, 3):
        raise LoadError(
            f"{path}: begins with {shown(bytes(magic))} and version {version}, where a "
            "little-endian GGUF file of version 2 or 3 is expected; convert the model again."
        )
    tensors, settings = header.number("Q"), header.number("Q")
    for count, most, what in (
        (tensors, MAX_TENSORS, "tensors"),
        (settings, _MAX_SETTINGS, "settings"),
    ):
        if count > most:
            raise LoadError(
                f"{path}: lists {count} {what}, where at most {most} are read; check that this is "
                "the right file."
            )
    fields: dict[str, Field] = {}
    for _ in range(settings):
        key = header.name()
        if key in fields:
            raise LoadError(
                f"{path}: has the setting {shown(key)} twice, so that programs may read different "
                "contents; convert the model again."
            )
        fields[key] = header.field()
    if "split.count" in fields:
        raise LoadError(
            f"{path}: one part of a model that is split over several files; merge them into one "
            "file first (llama-gguf-split --merge)."
        )
    alignment = fields.get("general.alignment", Field([4], [(32,)]))
    step = int(alignment.parts[0][0]) if alignment.types == [4] else 0
    if step < 1 or step & (step - 1):
        raise LoadError(f"{path}: an alignment of {step} bytes; convert the model again.")
    claimed = [_tensor(header) for _ in range(tensors)]
    begin = -(-header.at // step) * step
    placed = [tensor._replace(begin=begin + tensor.begin) for tensor in claimed]
    _check_places(placed, begin, len(header.content), path)
    digest = hashlib.sha256(header.content[: header.at]).hexdigest()
    return GgufFile(path, fields, placed, digest)


def _tensor(header: _Header) -> StoredTensor:
    path, name, axes = header.path, header.name(), header.number("I")
    if axes > _MAX_AXES:
        raise LoadError(
            f"{path}: {shown(name)} has {axes} axes, where at most {_MAX_AXES} are expected; "
            "download the file again."
        )
    shape = [header.number("Q") for _ in range(axes)]
    kind, offset = header.number("I"), header.number("Q")
    library = gguf_library()
    try:
        format = library.GGMLQuantizationType(kind)
        elements, size = library.GGML_QUANT_SIZES[format]
    except (KeyError, ValueError):
        raise LoadError(
            f"{path}: {shown(name)} is stored in format number {kind}, which gguf "
            "does not know; upgrade it (pip install --upgrade gguf) or convert the model again."
        ) from None
    if not shape or 0 in shape or shape[0] % elements:
        raise LoadError(
            f"{path}: {shown(name)} has shape {shape}, which does not fit the blocks of {elements} "
            f"numbers of {format.name}; convert the model again."
        )
    stored = math.prod(shape) // elements * size
    return StoredTensor(name, format, tuple(reversed(shape)), offset, stored)


def _check_places(tensors: list[StoredTensor], begin: int, size: int, path: Path) -> None:
    """Raise unless the tensors have distinct names and follow each other inside the file."""
    names = Counter(tensor.name for tensor in tensors)
    if twice := [name for name, count in names.items() if count > 1]:
        raise LoadError(f"{path}: has the tensor {shown(twice[0])} twice; convert the model again.")
    end = begin
    for tensor in sorted(tensors, key=lambda tensor: tensor.begin):
        last = tensor.begin + tensor.size
        if tensor.begin < end or last > size:
            raise LoadError(
                f"{path}: {shown(tensor.name)} claims bytes {tensor.begin} to {last}, which "
                f"lie in another tensor or outside the {size} bytes of the file; download it again."
            )
        end = last


def gguf_blueprint(file: GgufFile) -> tuple[Blueprint, Settings]:
    """Return the classes and settings for a GGUF file.

    A language model gets its head, of which GGUF files say nothing.
    """
    values = file.parsed["config"]
    if other := [name for name, value in values.items() if not _is_finite(value)]:
        raise LoadError(f"{file.path}: {listed(other)} is not finite; convert the model again.")
    names = model_library().models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    head = names.get(values.get("model_type"))
    if head and not values.get("architectures"):
        values = {**values, "architectures": [head]}
    settings = acceptable(values, str(file.path), allow_quantized=False)
    return blueprint(settings.values, str(file.path)), settings


def read_gguf_weights(file: GgufFile, plan: Blueprint) -> dict[str, Tensor]:
    """Return the weights of a GGUF file by the model library's names, in float32."""
    library, converter = gguf_library(), gguf_converter()
    content = np.asarray(np.memmap(file.path, mode="r"))  # views of a memmap cost four times more
    # Processors put experts, which they join, among the tensors themselves.
    parsed: dict[str, Any] = {**file.parsed, "tensors": {}}
    weights: dict[str, Tensor] = parsed["tensors"]
    left_out = []
    model = skeleton(plan, str(file.path))
    # The mapping asks for the same table of names again for every module.
    table = functools.cache(library.get_tensor_name_map)
    with guarded(file.path, _NOT_READ), patch.object(library, "get_tensor_name_map", table):
        architecture = file.fields["general.architecture"].parts[0].decode()
        kind = converter.TENSOR_PROCESSORS.get(architecture, converter.TensorProcessor)
        processor = kind(config=parsed["config"])
        places = converter.get_gguf_hf_weights_map(model, processor)
        for tensor in file.tensors:
            rows = library.quants.quant_shape_to_byte_shape(tensor.shape, tensor.format)
            stored = content[tensor.begin : tensor.begin + tensor.size].reshape(rows)
            # The library expands 16 rows at a time, mostly overhead where rows are short.
            joined = math.gcd(math.prod(rows[:-1]), MAX_JOINED_ROWS)
            expanded = library.dequantize(stored.reshape(-1, joined * rows[-1]), tensor.format)
            result = processor.process(
                weights=expanded.reshape(tensor.shape),
                name=tensor.name,
                tensor_key_mapping=places,
                parsed_parameters=parsed,
            )
            if result.name in places:
                weights[places[result.name]] = torch.from_numpy(np.array(result.weights))
            # The factors of the rotary angles change nothing where all of them are one.
            elif result.name and not (
                tensor.name.startswith("rope_f") and (result.weights == 1).all()
            ):
                left_out.append(tensor.name)
    if left_out:
        layers = getattr(plan.config, "num_hidden_layers", "its")
        raise LoadError(
            f"{file.path}: {plan.model.__name__} of {layers} layers, as transformers "
            f"{model_library().__version__} builds it from this file, does not use "
            f"{listed(left_out)}, so it would compute something else than the model that was "
            "converted; load the folder that the file was made from."
        )
    return weights


def _is_finite(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
