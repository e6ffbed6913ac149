"""The adjoint system (transposed map) and the reversed system (sequence in reverse order)."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.runtime.argument_checks import checked
from dsf.systems.coefficient import Coefficient, Matrices
from dsf.systems.composite import ExplicitMap, Operator, StoredRows, SystemSum
from dsf.systems.system import System, time_reversed
from dsf.systems.transition.storage import on_parts


@checked
def reverse(system: Operator) -> Operator:
    """The system that applies to the reversed sequence what ``system`` applies to the sequence.

    Tokens are in reverse order and the recurrence runs in the opposite direction; reversing twice
    gives the original. The structure of A and lazily sampled coefficients are preserved; the rows
    of an attention map are written out, T² numbers.

    Example:
        A state that halves, from the last token to the first:

        >>> import dsf, torch
        >>> from dsf.systems import transition
        >>> one = torch.ones(3, 1)
        >>> system = dsf.System.from_write_and_read(transition.Diagonal(one / 2), one, one)
        >>> dsf.attention_map(dsf.systems.algebra.reverse(system))
        tensor([[1.0000, 0.5000, 0.2500],
                [0.0000, 1.0000, 0.5000],
                [0.0000, 0.0000, 1.0000]])
    """
    if isinstance(system, SystemSum):
        return SystemSum(tuple(time_reversed(part) for part in system))
    if isinstance(system, ExplicitMap):
        return ExplicitMap(StoredRows(system.rows.dense().squeeze(-2).flip(-2, -1)))
    return time_reversed(system)


@checked
def adjoint(system: Operator, *, conjugate: bool = False) -> Operator:
    """The system whose map is the transposed map; its recurrence runs in the opposite direction.

    The structure of A and lazily sampled coefficients are preserved; the rows of an attention map
    are written out when the adjoint is evaluated, T² numbers. The initial state is not part of the
    map, so the adjoint starts from a zero state.

    Args:
        system: any system, sum or explicit map.
        conjugate: transpose and take complex conjugates.

    Example:
        Where the map reads token j for token i, the adjoint reads token i for token j:

        >>> import dsf, torch
        >>> from dsf.systems import algebra, transition
        >>> one = torch.ones(3, 1)
        >>> system = dsf.System.from_write_and_read(transition.Diagonal(one / 2), one, one)
        >>> dsf.attention_map(algebra.adjoint(system)).equal(dsf.attention_map(system).mT)
        True
    """
    if isinstance(system, SystemSum):
        return SystemSum(tuple(_adjoint(part, conjugate) for part in system))
    if isinstance(system, ExplicitMap):
        rows = system.rows.dense().squeeze(-2).mT
        return ExplicitMap(StoredRows(rows.conj() if conjugate else rows))
    return _adjoint(system, conjugate)


def _adjoint(system: System, conjugate: bool) -> System:
    if system.runs_backward:
        return time_reversed(_adjoint(time_reversed(system), conjugate))
    A = system.A.transposed()
    if not system.reads_before_update:
        A = A.flipped().delayed(1).flipped()
    return replace(
        system,
        A=on_parts(A, torch.conj) if conjugate and A.dtype.is_complex else A,
        B=_transposed(system.C, conjugate),
        C=_transposed(system.B, conjugate),
        D=_transposed(system.feedthrough, conjugate),
        initial=None,
        runs_backward=True,
    )


def _transposed(part: Matrices, conjugate: bool) -> Matrices:
    if isinstance(part, Transposed) and not conjugate:
        return part.of
    if isinstance(part, Coefficient):
        return Transposed(part, conjugate and part.dtype.is_complex)
    return part.mH if conjugate else part.mT


@dataclass(frozen=True)
class Transposed(Coefficient):
    """A lazy coefficient whose matrices are transposed when they are evaluated."""

    of: Coefficient
    conjugated: bool

    @property
    def shape(self) -> torch.Size:
        *leading, rows, columns = self.of.shape
        return torch.Size([*leading, columns, rows])

    @property
    def dtype(self) -> torch.dtype:
        return self.of.dtype

    @property
    def device(self) -> torch.device:
        return self.of.device

    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time rows columns"]:
        transposed = self.of.window(start, stop).mT
        return transposed.conj() if self.conjugated else transposed

    def flipped(self) -> "Transposed":
        return replace(self, of=self.of.flipped())

    def cut(self, start: int, stop: int) -> Matrices:
        part = self.of.cut(start, stop)
        if isinstance(part, Coefficient):
            return replace(self, of=part)
        return self.window(start, stop)

    def to(
        self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> "Transposed":
        return replace(self, of=self.of.to(dtype=dtype, device=device))

    def picked(self, index: Any, batch: torch.Size) -> "Transposed":
        return replace(self, of=self.of.picked(index, batch))
