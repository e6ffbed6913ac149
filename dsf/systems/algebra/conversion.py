"""Systems in another number type or on another device, and parts of their batch and time."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from dsf.runtime.argument_checks import checked
from dsf.systems.coefficient import Coefficient, Matrices
from dsf.systems.composite import ExplicitMap, Operator, SystemSum
from dsf.systems.system import System
from dsf.systems.transition.storage import cast

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
    if isinstance(system, ExplicitMap):
        return replace(system, rows=system.rows.to(dtype=dtype, device=device))

    def moved(part: Matrices) -> Matrices:
        if isinstance(part, Coefficient):
            return part.to(dtype=dtype, device=device)
        return cast(part, dtype=dtype, device=device)

    return replace(
        system,
        A=system.A.to(dtype=dtype, device=device),
        B=moved(system.B),
        C=moved(system.C),
        D=moved(system.feedthrough),
        initial=None
        if system.initial is None
        else cast(system.initial, dtype=dtype, device=device),
    )


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
    index = _without_ellipsis(index, len(system.batch))
    batch = _selected(index, system)
    if isinstance(system, SystemSum):
        return replace(system, parts=tuple(select(part, index) for part in system))
    if isinstance(system, ExplicitMap):
        return replace(system, rows=system.rows.picked(index, batch))

    def taken(part: Matrices) -> Matrices:
        return part.picked(index, batch) if isinstance(part, Coefficient) else part[index]

    return replace(
        system,
        A=system.A.picked(index, batch),
        B=taken(system.B),
        C=taken(system.C),
        D=taken(system.feedthrough),
        initial=None if system.initial is None else system.initial[index],
    )


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


def _without_ellipsis(index: Any, axes: int) -> Any:
    """Expand an ellipsis to batch axes, so that it cannot include the time axis."""
    parts = index if isinstance(index, tuple) else (index,)
    if any(part is None for part in parts):
        raise IndexError("select: an index of None would add an axis; take entries only.")
    if not any(part is Ellipsis for part in parts):
        return index
    position = next(k for k, part in enumerate(parts) if part is Ellipsis)
    named = sum(
        part.ndim if isinstance(part, Tensor) and part.dtype == torch.bool else 1
        for part in parts
        if part is not Ellipsis
    )
    return (*parts[:position], *[slice(None)] * (axes - named), *parts[position + 1 :])


@checked
def split_at(system: System, token: int) -> tuple[System, System]:
    """The system on the tokens before ``token``, and the system on the tokens from ``token`` on.

    The initial state stays with the part that is processed first. To continue with the other part,
    give it the state after the first: ``replace(second,
    initial=dsf.evaluate.final_state(first, signal))``. Lazily sampled coefficients stay lazy; the
    rows of an attention map are written out.

    Raises:
        ValueError: if one of the two would be empty.

    Example:
        >>> from dataclasses import replace
        >>> import dsf, torch
        >>> from dsf.systems import transition
        >>> one = torch.ones(5, 1)
        >>> system = dsf.System.from_write_and_read(transition.Diagonal(one / 2), one, one)
        >>> signal = torch.ones(5, 1, 1)
        >>> front, back = dsf.systems.algebra.split_at(system, 3)
        >>> state = dsf.evaluate.final_state(front, signal[:3])
        >>> dsf.respond(replace(back, initial=state), signal[3:]).flatten()
        tensor([1.8750, 1.9375])
        >>> dsf.respond(system, signal).flatten()
        tensor([1.0000, 1.5000, 1.7500, 1.8750, 1.9375])
    """
    if not 0 < token < system.steps:
        raise ValueError(
            f"split_at: needs 0 < token < {system.steps}, so that both parts have a token, "
            f"but token is {token}."
        )
    front, back = system.cut(0, token), system.cut(token, system.steps)
    if system.runs_backward:
        return front, replace(back, initial=system.initial)
    return replace(front, initial=system.initial), back
