"""Token mixers that are not one causal system: maps given by their rows, and sums of systems."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.runtime.shapes import ShapeError, agree, has_axes
from dsf.systems.coefficient import Coefficient
from dsf.systems.system import System

PANEL = 64
Values = Shaped[Tensor, "*batch read 1 channel"]
Mixed = Shaped[Tensor, "*batch time 1 channel"]


class RowSource(Coefficient):
    """Rows of a map, computed when they are needed: shape ``(*batch, time, 1, read)``.

    The axis ``time`` counts queries (rows), ``read`` counts keys (columns). Used as the C of a
    system that stores every token in a state of its own (an attention cache), or on its own as an
    :class:`ExplicitMap`.
    """

    @property
    def is_causal(self) -> bool:
        """Whether row t is known to be zero after column t; False where that is not known."""
        return False

    def reach(self, start: int, stop: int) -> Shaped[Tensor, "*batch rows keys"]:
        """The rows ``start`` to ``stop - 1``, without columns after the last that they may read."""
        rows = self.window(start, stop).squeeze(-2)
        return rows[..., :stop] if self.is_causal else rows

    @abstractmethod
    def apply(self, signal: Values) -> Mixed:
        """The map times the signal, without storing the map."""


@dataclass(frozen=True)
class StoredRows(RowSource):
    """Rows of a map that is stored as a matrix, ``query x key``."""

    matrix: Shaped[Tensor, "*batch time read"]

    @property
    def shape(self) -> torch.Size:
        return torch.Size([*self.matrix.shape[:-1], 1, self.matrix.shape[-1]])

    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time 1 read"]:
        return self.matrix[..., start:stop, :].unsqueeze(-2)

    def flipped(self) -> "StoredRows":
        return StoredRows(self.matrix.flip(-2))

    def apply(self, signal: Values) -> Mixed:
        return (self.matrix @ signal.squeeze(-2)).unsqueeze(-2)


@dataclass(frozen=True, eq=False)
class ExplicitMap:
    """A mixer given by the rows of its map alone, without a recurrent state.

    For non-causal softmax attention, cross attention (a rectangular map), and attention whose
    weights follow from no recurrence. One input and one output port.
    """

    rows: RowSource
    initial: None = None
    takes_real_part: bool = False

    def __post_init__(self) -> None:
        has_axes("ExplicitMap", "rows", self.rows.shape, "*batch time 1 read")
        if 0 in (self.steps, self.read_steps):
            raise ShapeError(
                f"ExplicitMap: needs at least one query (row) and one key (column), but it has "
                f"{self.steps} and {self.read_steps}."
            )

    @property
    def batch(self) -> torch.Size:
        """The leading axes."""
        return self.rows.shape[:-3]

    @property
    def steps(self) -> int:
        """How many queries (rows, tokens that are written)."""
        return self.rows.shape[-3]

    @property
    def read_steps(self) -> int:
        """How many keys (columns, tokens that are read)."""
        return self.rows.shape[-1]

    @property
    def input_size(self) -> int:
        """Number of input ports: one."""
        return 1

    @property
    def output_size(self) -> int:
        """Number of output ports: one."""
        return 1

    @property
    def dtype(self) -> torch.dtype:
        """The number type of the map."""
        return self.rows.dtype

    @property
    def device(self) -> torch.device:
        """The device of the map."""
        return self.rows.device

    def __repr__(self) -> str:
        batch = f", batch {tuple(self.batch)}" if self.batch else ""
        return (
            f"ExplicitMap({self.steps} tokens written, {self.read_steps} read{batch}; "
            f"{type(self.rows).__name__})"
        )


@dataclass(frozen=True, eq=False)
class SystemSum:
    """Systems applied to one signal with their responses added: ``y = Σ_k S_k(u)``.

    The sum of a forward and a backward system is a non-causal (quasi-separable) mixer.
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
        """Number of input ports."""
        return self.parts[0].input_size

    @property
    def output_size(self) -> int:
        """Number of output ports."""
        return self.parts[0].output_size

    @property
    def dtype(self) -> torch.dtype:
        """The number type to which all parts promote."""
        return reduce(torch.promote_types, (part.dtype for part in self.parts))

    @property
    def device(self) -> torch.device:
        """The device of the parts."""
        return self.parts[0].device


Operator = System | ExplicitMap | SystemSum


def at_rest(system: Operator) -> Operator:
    """The same without an initial state, which is not part of the map."""
    if isinstance(system, System):
        return replace(system, initial=None)
    if isinstance(system, SystemSum):
        return SystemSum(tuple(replace(part, initial=None) for part in system))
    return system


def response_dtype(system: Operator) -> torch.dtype:
    """The number type of the response to a real signal."""
    parts = system.parts if isinstance(system, SystemSum) else (system,)
    dtypes = (part.dtype.to_real() if part.takes_real_part else part.dtype for part in parts)
    return reduce(torch.promote_types, dtypes)
