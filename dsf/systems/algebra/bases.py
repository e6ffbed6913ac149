"""The same map in other state coordinates: a change of basis, and complex states as real pairs."""

from dataclasses import replace

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import ShapeError
from dsf.systems.algebra.structures import block_diagonal, written_out
from dsf.systems.coefficient import dense_of
from dsf.systems.solve import solved
from dsf.systems.system import System, time_reversed
from dsf.systems.transition import Dense
from dsf.systems.transition.storage import on_parts


@checked
def change_of_basis(system: System, T: Shaped[Tensor, "*leading state state"]) -> System:
    """The system in the coordinates ``T_t h_t``: other coefficients, the same map (a gauge).

    All structure of A is lost: the new A_t = T_t A_t T_{t-1}^{-1} are dense.

    Args:
        system: any system.
        T: one matrix, ``*batch state state``, or one matrix for the state before and after every
            token, ``*batch time+1 state state``: the first for the state before the first token,
            the last for the state after the last one.

    Raises:
        ShapeError: if T has other axes.
        ValueError: if a matrix cannot be inverted.

    Example:
        Two equal states; the new coordinates are their mean and their difference:

        >>> import dsf, torch
        >>> from dsf.systems import transition
        >>> decay, one = torch.full((3, 2), 0.5), torch.ones(3, 2)
        >>> system = dsf.System.from_write_and_read(transition.Diagonal(decay), one, one)
        >>> T = torch.tensor([[0.5, 0.5], [1.0, -1.0]])
        >>> other = dsf.systems.algebra.change_of_basis(system, T)
        >>> other.B[0].flatten(), other.C[0].flatten()
        (tensor([1., 0.]), tensor([2., 0.]))
        >>> dsf.attention_map(other).equal(dsf.attention_map(system))
        True
    """
    if system.runs_backward:
        flipped = T.flip(-3) if T.ndim == len(system.batch) + 3 else T
        return time_reversed(change_of_basis(time_reversed(system), flipped))
    between = _between_tokens(system, T)
    dtype = torch.promote_types(system.dtype, T.dtype)
    between = between.to(dtype)
    earlier, later = between[..., :-1, :, :], between[..., 1:, :, :]
    stored = written_out(system)
    A, B, C = (dense_of(part).to(dtype) for part in (stored.A.dense(), stored.B, stored.C))
    initial = None
    if system.initial is not None:
        initial = between[..., 0, :, :] @ system.initial.to(dtype)
    return replace(
        stored,
        A=Dense(_divided(later @ A, earlier)),
        B=later @ B,
        C=_divided(C, earlier if system.reads_before_update else later),
        initial=initial,
    )


def _between_tokens(system: System, T: Tensor) -> Tensor:
    """``T_0 ... T_T``: one matrix for the state before the first and after every token."""
    states = system.state_size
    constant = (*system.batch, states, states)
    varying = (*system.batch, system.steps + 1, states, states)
    if T.shape == constant:
        return T.unsqueeze(-3).expand(varying)
    if T.shape != varying:
        raise ShapeError(
            f"change_of_basis: 'T' must have the axes '*batch state state', here {constant}, or "
            f"'*batch time+1 state state', here {varying}, but its shape is {tuple(T.shape)}."
        )
    return T


def _divided(rows: Tensor, T: Tensor) -> Tensor:
    try:
        return solved(T.mT, rows.mT).mT
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise ValueError(
            "change_of_basis: 'T' must be invertible at every token, but it is not."
        ) from error


@checked
def with_conjugates(system: System) -> System:
    """A system that takes the real part, rewritten with the states ``(h, conj h)`` instead.

    The new system has twice the states, and its response is complex with an imaginary part of zero
    up to rounding.

    Raises:
        ValueError: if the system does not take the real part.

    Example:
        A complex state that rotates by a quarter turn at every token:

        >>> import dsf, torch
        >>> one = torch.ones(5, 1, dtype=torch.complex64)
        >>> A = dsf.systems.transition.Diagonal(1j * one)
        >>> system = dsf.System.from_write_and_read(A, one, one, takes_real_part=True)
        >>> plain = dsf.systems.algebra.with_conjugates(system)
        >>> dsf.attention_map(plain, rows=-1).real
        tensor([[ 1.,  0., -1.,  0.,  1.]])
    """
    if not system.takes_real_part:
        raise ValueError(
            "with_conjugates: only for a system that takes the real part, but this one does not. "
            "Use it as it is."
        )
    stored = written_out(system)
    B, C, D = (dense_of(part) for part in (stored.B, stored.C, stored.feedthrough))
    initial = None
    if system.initial is not None:
        initial = torch.cat([system.initial, system.initial.conj()], dim=-2)
    return replace(
        stored,
        A=block_diagonal([stored.A, on_parts(stored.A, torch.conj)]),
        B=torch.cat([B, B.conj()], dim=-2),
        C=torch.cat([C, C.conj()], dim=-1) / 2,
        D=torch.complex(D.real, torch.zeros_like(D.real)) if D.is_complex() else D,
        initial=initial,
        takes_real_part=False,
    )
