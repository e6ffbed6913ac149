"""Token mixers that are not one causal system: explicit maps and sums."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.coefficient import Coefficient
from dsf.shapes import ShapeError, agree, has_axes
from dsf.system import System

PANEL = 64


class RowSource(Coefficient):
    """Rows of a map, computed where they are looked at: shape ``(*batch, time, 1, read)``.

    Used as the C of a system that keeps every token in a state of its own (an attention cache),
    or on its own as an :class:`ExplicitMap`.
    """

    @property
    def is_causal(self) -> bool:
        """Whether row t is known to be zero behind column t; False where it is not known."""
        return False

    @abstractmethod
    def apply(
        self, signal: Shaped[Tensor, "*batch read 1 channel"]
    ) -> Shaped[Tensor, "*batch time 1 channel"]:
        """The map times the signal, without storing the map."""


@dataclass(frozen=True)
class StoredRows(RowSource):
    """Rows of a map that is already a matrix."""

    matrix: Shaped[Tensor, "*batch time read"]

    @property
    def shape(self) -> torch.Size:
        return torch.Size([*self.matrix.shape[:-1], 1, self.matrix.shape[-1]])

    @property
    def dtype(self) -> torch.dtype:
        return self.matrix.dtype

    @property
    def device(self) -> torch.device:
        return self.matrix.device

    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time 1 read"]:
        return self.matrix[..., start:stop, :].unsqueeze(-2)

    def flipped(self) -> "StoredRows":
        return StoredRows(self.matrix.flip(-2))

    def apply(
        self, signal: Shaped[Tensor, "*batch read 1 channel"]
    ) -> Shaped[Tensor, "*batch time 1 channel"]:
        return (self.matrix @ signal.squeeze(-2)).unsqueeze(-2)


@dataclass(frozen=True, eq=False)
class ExplicitMap:
    """A mixer given by the rows of its map alone; it has no finite state of its own.

    Non-causal softmax attention, cross attention (rectangular), and attention whose weights no
    recurrence makes. One input and one output port.
    """

    rows: RowSource
    initial: None = None
    takes_real_part: bool = False

    def __post_init__(self) -> None:
        has_axes("ExplicitMap", "rows", self.rows.shape, "*batch time 1 read")
        if 0 in (self.steps, self.read_steps):
            raise ShapeError(
                f"ExplicitMap: needs at least one token written and one read, but it has "
                f"{self.steps} and {self.read_steps}."
            )

    @property
    def batch(self) -> torch.Size:
        """The leading axes."""
        return self.rows.shape[:-3]

    @property
    def steps(self) -> int:
        """How many tokens are written."""
        return self.rows.shape[-3]

    @property
    def read_steps(self) -> int:
        """How many tokens are read."""
        return self.rows.shape[-1]

    @property
    def input_size(self) -> int:
        """Input ports: one."""
        return 1

    @property
    def output_size(self) -> int:
        """Output ports: one."""
        return 1

    @property
    def dtype(self) -> torch.dtype:
        """The number type of the map."""
        return self.rows.dtype

    @property
    def device(self) -> torch.device:
        """Where the map lives."""
        return self.rows.device

    def __repr__(self) -> str:
        batch = f", batch {tuple(self.batch)}" if self.batch else ""
        return (
            f"ExplicitMap({self.steps} tokens written, {self.read_steps} read{batch}; "
            f"{type(self.rows).__name__})"
        )


@dataclass(frozen=True, eq=False)
class SystemSum:
    """Systems side by side on one signal, their responses added: ``y = Σ S_k(u)``.

    A forward and a backward system make a non-causal (quasi-separable) mixer.
    """

    parts: tuple[System, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("SystemSum: needs at least one system, but it got none.")
        for axis in ("batch", "steps", "input_size", "output_size"):
            sizes = {f"part {k}": getattr(part, axis) for k, part in enumerate(self.parts)}
            agree("SystemSum", axis, **sizes)

    def __repr__(self) -> str:
        return f"SystemSum({' + '.join(map(repr, self.parts))})"

    def __iter__(self) -> Iterator[System]:
        return iter(self.parts)

    @property
    def batch(self) -> torch.Size:
        """The leading axes."""
        return self.parts[0].batch

    @property
    def steps(self) -> int:
        """How many tokens."""
        return self.parts[0].steps

    @property
    def input_size(self) -> int:
        """Input ports."""
        return self.parts[0].input_size

    @property
    def output_size(self) -> int:
        """Output ports."""
        return self.parts[0].output_size

    @property
    def dtype(self) -> torch.dtype:
        """The number type that holds every part."""
        dtype = self.parts[0].dtype
        for part in self.parts[1:]:
            dtype = torch.promote_types(dtype, part.dtype)
        return dtype

    @property
    def device(self) -> torch.device:
        """Where the parts live."""
        return self.parts[0].device


Operator = System | ExplicitMap | SystemSum
