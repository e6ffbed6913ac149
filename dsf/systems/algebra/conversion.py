"""Systems in another number type or order, on another device, transposed, and parts of systems."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.runtime.argument_checks import checked
from dsf.systems.coefficient import Coefficient, Matrices, cast, on_parts
from dsf.systems.composite import ExplicitMap, Operator, StoredRows, SystemSum
from dsf.systems.system import System, time_reversed

Kind = TypeVar("Kind", bound=Operator)


@checked
def converted(
    system: Kind, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Kind:
    """The system in another precision or on another device.

    Lazily sampled coefficients and attention rows stay lazy and are computed in the new precision.

    Args:
        system: any system, sum or explicit map.
        dtype: a real number type, which sets the precision: complex coefficients become complex
            numbers of that precision.
        device: where to move every coefficient.

    Raises:
        ValueError: if ``dtype`` is not a real floating number type.

    Example:
        >>> import dsf, torch
        >>> from dsf.systems import transition
        >>> one = torch.ones(3, 1)
        >>> system = dsf.System.from_write_and_read(transition.Diagonal(one / 2), one, one)
        >>> dsf.systems.algebra.converted(system, dtype=torch.float64)
        System(3 tokens, 1 states, 1 in, 1 out; A: Diagonal; float64 on cpu)
    """
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(
            f"converted: dtype names a precision, so it must be a real floating type such as "
            f"torch.float64, but it is {dtype}. Complex parts stay complex."
        )
    try:
        device = None if device is None else torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"converted: 'device' must be a device such as 'cpu' or 'cuda:0', but it is {device!r}."
        ) from error
    if isinstance(system, SystemSum):
        return replace(
            system,
            parts=tuple(converted(part, dtype=dtype, device=device) for part in system),
        )
    moved = partial(cast, dtype=dtype, device=device)
    if isinstance(system, ExplicitMap):
        return replace(system, rows=moved(system.rows))
    start = None if system.initial is None else moved(system.initial)
    return system.with_ports(moved, A=moved(system.A), initial=start)


@checked
def select(system: Kind, index: Any) -> Kind:
    """Some entries of the batch axes: one head, one sample, every other channel.

    Args:
        system: any system, sum or explicit map.
        index: an index into a tensor of shape ``system.batch``: a number, a slice, a tuple of
            these, or an index tensor.

    Raises:
        IndexError: if there is no such entry, or the index has more axes than the batch.

    Example:
        >>> import dsf, torch
        >>> from dsf.systems import transition
        >>> one = torch.ones(8, 3, 1)  # eight heads
        >>> system = dsf.System.from_write_and_read(transition.Diagonal(one / 2), one, one)
        >>> dsf.systems.algebra.select(system, slice(2, 4))
        System(3 tokens, 1 states, 1 in, 1 out, batch (2,); A: Diagonal; float32 on cpu)
        >>> dsf.systems.algebra.select(system, 5)
        System(3 tokens, 1 states, 1 in, 1 out; A: Diagonal; float32 on cpu)
    """
    batch = _selected(index, system)
    if isinstance(system, SystemSum):
        return replace(system, parts=tuple(select(part, index) for part in system))
    if isinstance(system, ExplicitMap):
        return replace(system, rows=system.rows.picked(index, batch))

    def taken(part: Matrices) -> Matrices:
        return part.picked(index, batch) if isinstance(part, Coefficient) else part[index]

    start = None if system.initial is None else system.initial[index]
    return system.with_ports(taken, A=system.A.picked(index, batch), initial=start)


def _selected(index: Any, system: Operator) -> torch.Size:
    """The batch axes that are left."""
    for part in index if isinstance(index, tuple) else (index,):
        if not _is_index(part):
            raise TypeError(
                f"select: 'index' must be a number, a slice, an index tensor or a tuple of these, "
                f"but it has {part!r}."
            )
    one = torch.ones((), dtype=torch.bool, device=system.device)
    try:
        return one.expand(system.batch)[index].shape
    except (IndexError, ValueError, RuntimeError) as error:
        raise IndexError(
            f"select: there is no entry for 'index' {index!r} in the batch axes "
            f"{tuple(system.batch)}: {error}."
        ) from error


def _is_index(part: Any) -> bool:
    if isinstance(part, Tensor | np.ndarray):
        return not any(kind in str(part.dtype) for kind in ("float", "complex", "object", "str"))
    if isinstance(part, Sequence) and not isinstance(part, str | bytes):
        return all(map(_is_index, part))
    return isinstance(part, slice | int | np.integer) and not isinstance(part, bool)


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

    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time rows columns"]:
        part = self.of.window(start, stop)
        return part.mH if self.conjugated else part.mT

    def flipped(self) -> "Transposed":
        return replace(self, of=self.of.flipped())

    def cut(self, start: int, stop: int) -> Matrices:
        return _transposed(self.of.cut(start, stop), self.conjugated)
