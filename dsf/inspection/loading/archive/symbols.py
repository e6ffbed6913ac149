"""What the opcodes of an archive build: names and plain records, never the objects they name."""

from dataclasses import dataclass, field
from typing import Any


class Refused(Exception):
    """The archive asks for something that a table of tensors does not need."""


@dataclass(frozen=True)
class Name:
    """A global of some module, by name only."""

    text: str


@dataclass(frozen=True)
class Storage:
    """A block of numbers in the archive: the member that holds it and the type torch gave it."""

    kind: str
    member: str
    size: int


@dataclass(frozen=True)
class StoredTensor:
    """A view on a storage; offset and stride count elements."""

    storage: Storage
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@dataclass
class Module:
    """A TorchScript module: its attributes, as data."""

    attributes: dict[Any, Any] = field(default_factory=dict)
