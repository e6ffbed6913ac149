"""Reads GGUF files, which hold a model's settings, tokenizer and often quantised weights in one.

``read_layout`` first walks the header of the file and holds every count, length and offset in it
against the file's size, since the readers of other libraries trust them. Only then the model
library maps names and settings to its own, and the ``gguf`` package expands the weights.
"""

import contextlib
import hashlib
import importlib
import io
import math
import mmap
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor, nn

from dsf.loading.building import Blueprint, blueprint, skeleton, undisturbed
from dsf.loading.errors import LoadError, listed, reason, shown
from dsf.loading.library_versions import gguf_library, gguf_reader, model_library
from dsf.loading.safetensors_header import MOST_TENSORS
from dsf.loading.settings import Settings, acceptable

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_KEYS = 10_000
_MOST_ITEMS = 4_000_000  # in all lists together: vocabularies have some 300,000 tokens
_MOST_NAME_BYTES = 65_535
_MOST_AXES = 4
_ALIGNMENT = 32
_STRING, _ARRAY = 8, 9
_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UNSIGNED = 4
_TOKENIZER = "tokenizer.ggml.model"


class GgufLayout(NamedTuple):
    """What the header of a GGUF file says, after it was held against the file.

    Attributes:
        keys: the names of the settings.
        formats: how weights are stored, such as ``Q4_1``, in order.
        header_hash: SHA-256 of everything before the weights, in hexadecimal.
    """

    keys: frozenset[str]
    formats: tuple[str, ...]
    header_hash: str

    @property
    def has_tokenizer(self) -> bool:
        """Whether there is a tokenizer among the settings."""
        return _TOKENIZER in self.keys


def read_layout(path: Path) -> GgufLayout:
    """Walk the header of a GGUF file.

    Raises:
        LoadError: not a GGUF file of version 2 or 3, a part of a model that is split over files,
            or a count, length, offset or shape that does not fit the file.
    """
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return _walked(_Header(path, content), path)
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        if isinstance(error, LoadError):
            raise
        raise LoadError(f"{path}: not a GGUF file ({reason(error)}); download it again.") from None


class _Header:
    """The bytes of a header, read one after the other."""

    def __init__(self, path: Path, content: mmap.mmap):
        self.path, self.content, self.at, self.items = path, content, 0, 0

    def skip(self, size: int) -> int:
        """Go on by ``size`` bytes, which must be there; where they begin."""
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
        (value,) = struct.unpack_from(format, self.content, self.skip(size))
        return int(value)

    def name(self) -> str:
        size = self.number("<Q")
        if size > _MOST_NAME_BYTES:
            raise LoadError(
                f"{self.path}: a name has {size} bytes, where at most {_MOST_NAME_BYTES} are read; "
                "download the file again."
            )
        begin = self.skip(size)
        return self.content[begin : begin + size].decode("utf-8")

    def value(self, kind: int) -> int:
        """Go past one setting; where its value begins."""
        if kind in _SCALAR_BYTES:
            return self.skip(_SCALAR_BYTES[kind])
        if kind == _STRING:
            return self.skip(self.number("<Q"))
        if kind != _ARRAY:
            raise LoadError(f"{self.path}: has a setting of unknown type {kind}; convert it again.")
        return self.list_of_values()

    def list_of_values(self) -> int:
        kind, count = self.number("<I"), self.number("<Q")
        self.items += count
        if self.items > _MOST_ITEMS:
            raise LoadError(
                f"{self.path}: its lists have more than {_MOST_ITEMS} entries, which no vocabulary "
                "needs; check that this is the right file."
            )
        if kind in _SCALAR_BYTES:
            return self.skip(count * _SCALAR_BYTES[kind])
        if kind != _STRING:
            raise LoadError(f"{self.path}: has a list of type {kind}; convert the model again.")
        begin = self.at
        for _ in range(count):
            self.value(_STRING)
        return begin


def _walked(header: _Header, path: Path) -> GgufLayout:
    magic = header.content[:4]
    header.skip(4)
    version = header.number("<I")
    if magic != _MAGIC or version not in _VERSIONS:
        raise LoadError(
            f"{path}: begins with {shown(bytes(magic))} and version {version}, where a "
            "little-endian GGUF file of version 2 or 3 is expected; convert the model again."
        )
    tensors, settings = header.number("<Q"), header.number("<Q")
    counted = ((tensors, MOST_TENSORS, "tensors"), (settings, _MOST_KEYS, "settings"))
    for count, most, what in counted:
        if count > most:
            raise LoadError(
                f"{path}: lists {count} {what}, where at most {most} are read; check that this is "
                "the right file."
            )
    keys, alignment = _settings(header, settings, path)
    claimed = [_tensor(header, path) for _ in range(tensors)]
    _check_places(claimed, -(-header.at // alignment) * alignment, len(header.content), path)
    digest = hashlib.sha256(header.content[: header.at]).hexdigest()
    return GgufLayout(keys, tuple(sorted({each.format for each in claimed})), digest)


def _settings(header: _Header, count: int, path: Path) -> tuple[frozenset[str], int]:
    """The names of the settings, and to how many bytes the places of weights are rounded up."""
    alignment, keys = _ALIGNMENT, set()
    for _ in range(count):
        key, kind = header.name(), header.number("<I")
        begin = header.value(kind)
        if key in keys:
            raise LoadError(
                f"{path}: has the setting {shown(key)} twice, so that programs may read different "
                "contents; convert the model again."
            )
        keys.add(key)
        if key == "general.alignment" and kind == _UNSIGNED:
            (alignment,) = struct.unpack_from("<I", header.content, begin)
    if "split.count" in keys:
        raise LoadError(
            f"{path}: one part of a model that is split over several files; merge them into one "
            "file first (llama-gguf-split --merge)."
        )
    if alignment < 1 or alignment & (alignment - 1):
        raise LoadError(f"{path}: an alignment of {alignment} bytes; convert the model again.")
    return frozenset(keys), alignment


class _Claimed(NamedTuple):
    name: str
    format: str
    offset: int
    size: int


def _tensor(header: _Header, path: Path) -> _Claimed:
    name, axes = header.name(), header.number("<I")
    if axes > _MOST_AXES:
        raise LoadError(
            f"{path}: {shown(name)} has {axes} axes, where at most {_MOST_AXES} are expected; "
            "download the file again."
        )
    shape = [header.number("<Q") for _ in range(axes)]
    kind, offset = header.number("<I"), header.number("<Q")
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
    return _Claimed(name, str(format.name), offset, math.prod(shape) // elements * size)


def _check_places(claimed: list[_Claimed], begin: int, size: int, path: Path) -> None:
    """Raise unless the tensors have names of their own and lie in the file, one after the other."""
    names = Counter(each.name for each in claimed)
    if twice := [name for name, count in names.items() if count > 1]:
        raise LoadError(f"{path}: has the tensor {shown(twice[0])} twice; convert the model again.")
    end = begin
    for each in sorted(claimed, key=lambda each: each.offset):
        first = begin + each.offset
        if first < end or first + each.size > size:
            raise LoadError(
                f"{path}: {shown(each.name)} claims bytes {first} to {first + each.size}, which "
                f"lie in another tensor or outside the {size} bytes of the file; download it again."
            )
        end = first + each.size


def read_gguf_settings(path: Path) -> Settings:
    """The settings of the model library's configuration class, as a GGUF file gives them.

    A language model gets its head, of which GGUF files say nothing.

    Raises:
        LoadError: the model library knows no such architecture, or a setting is refused.
    """
    values = _parsed(path)["config"]
    if other := [name for name, value in values.items() if not _is_finite(value)]:
        raise LoadError(f"{path}: {listed(other)} is not finite; convert the model again.")
    names = model_library().models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    head = names.get(values.get("model_type"))
    if head and not values.get("architectures"):
        values = {**values, "architectures": [head]}
    return acceptable(values, str(path), allow_quantized=False)


def gguf_blueprint(path: Path) -> tuple[Blueprint, Settings]:
    """The classes and settings of a GGUF file whose layout was checked.

    Raises:
        LoadError: as ``read_gguf_settings`` and ``blueprint``.
    """
    settings = read_gguf_settings(path)
    return blueprint(settings.values, str(path)), settings


def read_gguf_weights(path: Path, plan: Blueprint) -> dict[str, Tensor]:
    """The weights of a GGUF file whose layout was checked, by the model library's names, float32.

    Raises:
        LoadError: a format that cannot be expanded, or weights that the model library leaves out.
    """
    left_out: list[str] = []
    with _noting_what_is_left_out(left_out):
        weights: dict[str, Tensor] = _parsed(path, skeleton(plan, str(path)))["tensors"]
    if missed := [name for name in left_out if not _changes_nothing(name, path)]:
        layers = getattr(plan.config, "num_hidden_layers", "its")
        raise LoadError(
            f"{path}: {plan.model.__name__} of {layers} layers, as transformers "
            f"{model_library().__version__} builds it from this file, does not use "
            f"{listed(missed)}, so it would compute something else than the model that was "
            "converted; load the folder that the file was made from."
        )
    return weights


@contextlib.contextmanager
def _noting_what_is_left_out(names: list[str]) -> Iterator[None]:
    """The reader asks a mapping whether the model has a tensor, and drops one that it has not."""
    reader = importlib.import_module(gguf_reader().__module__)
    build = getattr(reader, "get_gguf_hf_weights_map", None)
    if build is None:
        yield
        return

    class Asked(dict[str, str]):
        def __contains__(self, name: object) -> bool:
            known = super().__contains__(name)
            if not known and isinstance(name, str):
                names.append(name)
            return known

    with _replaced(reader, "get_gguf_hf_weights_map", lambda *a, **k: Asked(build(*a, **k))):
        yield


def _changes_nothing(name: str, path: Path) -> bool:
    """Whether a tensor holds the factors of the rotary angles, all of them one."""
    if not name.startswith("rope_f"):
        return False
    tensors = gguf_library().GGUFReader(path).tensors
    return all(bool((each.data == 1).all()) for each in tensors if each.name == name)


def _parsed(path: Path, model: nn.Module | None = None) -> dict[str, Any]:
    """What the model library makes of a GGUF file: settings, and weights for ``model``."""
    read = gguf_reader()
    with undisturbed(), _no_bars():
        try:
            parsed: dict[str, Any] = read(
                str(path), return_tensors=model is not None, model_to_load=model
            )
        except Exception as error:  # the readers may raise anything on untrusted files
            raise LoadError(
                f"{path}: cannot be read ({reason(error)}); download it again."
            ) from None
    return parsed


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """The reader draws a progress bar, in a notebook as a widget, whatever it is told."""
    reader = importlib.import_module(gguf_reader().__module__)
    with contextlib.redirect_stderr(io.StringIO()), _replaced(reader, "tqdm", _without_a_bar):
        yield


@contextlib.contextmanager
def _replaced(module: ModuleType, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name, None)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _without_a_bar(items: Iterable[Any], **_: object) -> Iterable[Any]:
    return items


def _is_finite(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
