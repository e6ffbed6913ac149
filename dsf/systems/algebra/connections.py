"""Systems in other state coordinates, and connected: in series, in parallel, as a direct sum.

The structure of A_t is preserved where that is possible.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.nn.functional import pad

from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import ShapeError, agree, on_one_device
from dsf.systems.coefficient import dense_of, on_parts
from dsf.systems.composite import SystemSum, parts_of
from dsf.systems.system import System, time_reversed
from dsf.systems.transition import (
    Dense,
    Diagonal,
    DiagonalPlusLowRank,
    SampledDiagonal,
    Transition,
    solved,
)


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


@checked
def series(first: System, second: System) -> System:
    """``second`` driven by the response of ``first``; its map is the product of the two maps.

    The states are stacked. Diagonal transitions, with or without a low-rank term, become diagonal
    plus low rank, where the number of ports between the two systems adds to the rank; other
    structures become dense. B and C are written out: for an attention cache of T tokens that takes
    T² numbers each.

    Raises:
        ShapeError: if ``first`` has another number of outputs than ``second`` has inputs.
        ValueError: if one runs forward and the other backward, or if ``second`` takes the real part
            and ``first`` has a complex response.

    Example:
        Two delays of one token in series are a delay of two:

        >>> import dsf, torch
        >>> like = torch.zeros(())
        >>> A = dsf.systems.transition.Shift.register(like, batch=torch.Size(), steps=4, size=2)
        >>> first, last = torch.tensor([1.0, 0]).expand(4, 2), torch.tensor([0, 1.0]).expand(4, 2)
        >>> delay = dsf.System.from_write_and_read(A, write=first, read=last)
        >>> dsf.attention_map(dsf.systems.algebra.series(delay, delay)).diagonal(-2)
        tensor([1., 1.])
    """
    same_sequence("series", [first, second])
    agree("series", "between", first=first.output_size, second=second.input_size)
    if first.runs_backward != second.runs_backward:
        raise ValueError(
            "series: one system runs forward and the other backward, so no single system has "
            "the product of their maps. Call dsf.respond on one after the other, or multiply the "
            "maps."
        )
    if second.takes_real_part and first.dtype.is_complex and not first.takes_real_part:
        raise ValueError(
            "series: the second system takes the real part of its response, so it needs a real "
            "signal, but the response of the first one is complex."
        )
    real = second.takes_real_part or (first.takes_real_part and not second.dtype.is_complex)
    if first.takes_real_part:
        first = with_conjugates(first)
    dtype = torch.promote_types(first.dtype, second.dtype)
    both = _cascade(written_out(first, dtype), written_out(second, dtype))
    return replace(both, takes_real_part=real)


def _cascade(first: System, second: System) -> System:
    """The cascade reads after the update if both systems do, and before the update otherwise."""
    before = first.reads_before_update or second.reads_before_update
    early = reading_before(first)
    late = reading_before(second) if before else second
    outer = early if before else first
    B1, C1, D1 = (dense_of(part) for part in (early.B, early.C, early.feedthrough))
    B2, C2, D2 = (dense_of(part) for part in (late.B, late.C, late.feedthrough))
    C, D = dense_of(outer.C), dense_of(outer.feedthrough)
    return System(
        A=_chained(first.A, second.A, B2, C1),
        B=torch.cat([B1, B2 @ D1], dim=-2),
        C=torch.cat([D2 @ C, C2], dim=-1),
        D=D2 @ D,
        initial=joint_initial([first, second]),
        reads_before_update=before,
        runs_backward=first.runs_backward,
    )


def _chained(first: Transition, second: Transition, write: Tensor, read: Tensor) -> Transition:
    """Block diagonal, plus ``write @ read`` from the states of ``first`` to those of ``second``."""
    states = first.state_size, second.state_size
    left = pad(write, (0, 0, states[0], 0))
    right = pad(read.mT, (0, 0, 0, states[1]))
    joint = block_diagonal([first, second])
    low = low_rank(joint)
    if low is None:
        return Dense(joint.dense() + left @ right.mT)
    return DiagonalPlusLowRank(
        low.decay, torch.cat([low.left, left], dim=-1), torch.cat([low.right, right], dim=-1)
    )


@checked
def parallel(*systems: System | SystemSum) -> System | SystemSum:
    """All systems applied to one signal and their responses added; the maps add up as well.

    If all run in the same direction the result is one system with the states stacked: diagonals
    stay diagonal, the ranks of low-rank terms add up, other structures become dense, and B and C
    are written out. The result is a :class:`SystemSum` if some systems run forward and some
    backward, or if some take the real part of a complex response and others return it complex.

    Raises:
        ShapeError: if batch axes, numbers of tokens or numbers of ports differ.
        ValueError: if there is no system.

    Example:
        A state that decays slowly and one that decays fast, both driven by the same signal:

        >>> import dsf, torch
        >>> from dsf.systems import transition
        >>> one = torch.ones(3, 1)
        >>> slow, fast = (
        ...     dsf.System.from_write_and_read(transition.Diagonal(decay * one), one, one)
        ...     for decay in (0.5, 0.25)
        ... )
        >>> both = dsf.systems.algebra.parallel(slow, fast)
        >>> both
        System(3 tokens, 2 states, 1 in, 1 out; A: Diagonal; float32 on cpu)
        >>> dsf.attention_map(both, rows=-1)
        tensor([[0.3125, 0.7500, 2.0000]])
    """
    parts: list[Any] = [part for system in systems for part in parts_of(system)]
    if not parts:
        raise ValueError("parallel: needs at least one system, but there is none.")
    same_sequence("parallel", parts)
    agree("parallel", "input", **{f"system {k}": part.input_size for k, part in enumerate(parts)})
    agree("parallel", "output", **{f"system {k}": part.output_size for k, part in enumerate(parts)})
    if len(parts) == 1:
        return parts[0]
    return _stacked(parts) if _add_up(parts) else SystemSum(tuple(parts))


@checked
def direct_sum(*systems: System) -> System | SystemSum:
    """Systems stacked so that each keeps its own input and output ports.

    The map, sorted by port, is block diagonal with one block for every system. Ports are those of
    the first system, then of the second, and so on; states and structure are as in
    :func:`parallel`.

    Raises:
        ShapeError: if batch axes or numbers of tokens differ.
        ValueError: if there is no system.

    Example:
        Two tokens and two ports, each with its own decay:

        >>> import dsf, torch
        >>> from dsf.systems import transition
        >>> one = torch.ones(2, 1)
        >>> slow, fast = (
        ...     dsf.System.from_write_and_read(transition.Diagonal(decay * one), one, one)
        ...     for decay in (0.5, 0.25)
        ... )
        >>> dsf.attention_map(dsf.systems.algebra.direct_sum(slow, fast), rows=-1)
        tensor([[0.5000, 0.0000, 1.0000, 0.0000],
                [0.0000, 0.2500, 0.0000, 1.0000]])
    """
    inputs = [system.input_size for system in systems]
    outputs = [system.output_size for system in systems]
    placed = []
    for k, system in enumerate(systems):
        columns = (sum(inputs[:k]), sum(inputs[k + 1 :]))
        rows = (sum(outputs[:k]), sum(outputs[k + 1 :]))
        placed.append(
            replace(
                system,
                B=pad(dense_of(system.B), columns),
                C=pad(dense_of(system.C), (0, 0, *rows)),
                D=pad(dense_of(system.feedthrough), (*columns, *rows)),
            )
        )
    if not placed:
        raise ValueError("direct_sum: needs at least one system, but there is none.")
    return parallel(*placed)


def _add_up(parts: Sequence[System]) -> bool:
    """Whether one system with stacked states has the sum of the responses."""
    if len({part.runs_backward for part in parts}) > 1:
        return False
    others = [part for part in parts if not part.takes_real_part]
    return len(others) == len(parts) or not any(part.dtype.is_complex for part in others)


def _stacked(parts: Sequence[System]) -> System:
    before = any(part.reads_before_update for part in parts)
    stored = [written_out(part) for part in parts]
    read = [reading_before(part) for part in stored] if before else stored
    feedthrough = reduce(torch.add, (dense_of(part.feedthrough) for part in read))
    return System(
        A=block_diagonal([part.A for part in read]),
        B=torch.cat([dense_of(part.B) for part in read], dim=-2),
        C=torch.cat([dense_of(part.C) for part in read], dim=-1),
        D=feedthrough,
        initial=joint_initial(parts),
        reads_before_update=before,
        takes_real_part=any(part.takes_real_part for part in parts),
        runs_backward=parts[0].runs_backward,
    )


def written_out(system: System, dtype: torch.dtype | None = None) -> System:
    """The system with B, C and D as stored tensors, and all parts in its or another number type."""
    dtype = dtype or system.dtype
    return system.with_ports(lambda part: dense_of(part).to(dtype), A=system.A.to(dtype=dtype))


def reading_before(system: System) -> System:
    """The same system, reading before the update: ``y = C_t A_t h_{t-1} + (C_t B_t + D_t) u_t``."""
    if system.reads_before_update:
        return system
    B, C, D = (dense_of(part) for part in (system.B, system.C, system.feedthrough))
    return replace(
        system, C=(system.A.transposed() @ C.mT).mT, D=C @ B + D, reads_before_update=True
    )


def joint_initial(systems: Sequence[System]) -> torch.Tensor | None:
    """The initial states stacked along the state axis, zeros where absent; None if all are."""
    given = [system.initial for system in systems if system.initial is not None]
    if not given:
        return None
    channels = {f"part {k}": each.shape[-1] for k, each in enumerate(given)}
    agree("initial states", "channel", **channels)
    empty = given[0].new_zeros(1, given[0].shape[-1])
    states = [
        empty.expand(*each.batch, each.state_size, -1) if each.initial is None else each.initial
        for each in systems
    ]
    return torch.cat(states, dim=-2)


def same_sequence(owner: str, systems: Sequence[System]) -> None:
    """Raise unless all systems have the same batch axes and tokens and are on the same device."""
    names = [f"system {k}" for k in range(len(systems))]
    batches = [tuple(system.batch) for system in systems]
    agree(owner, "batch", **dict(zip(names, batches, strict=True)))
    agree(owner, "time", **dict(zip(names, [each.steps for each in systems], strict=True)))
    on_one_device(owner, **dict(zip(names, [each.device for each in systems], strict=True)))


def block_diagonal(parts: Sequence[Transition]) -> Transition:
    """The block-diagonal transition of the stacked states.

    Diagonals stay diagonal, and stay lazily sampled when all have the same step sizes; if some are
    diagonal plus low rank, the ranks add up; every other structure becomes dense.
    """
    if len(parts) == 1:
        return parts[0]
    sampled = [part for part in parts if isinstance(part, SampledDiagonal)]
    if len(sampled) == len(parts) and all(part.step.equal(sampled[0].step) for part in sampled):
        return SampledDiagonal(sampled[0].step, torch.cat([part.pole for part in sampled], dim=-1))
    diagonals = [part.diagonal() for part in parts]
    known = [decay for decay in diagonals if decay is not None]
    if len(known) == len(parts):
        return Diagonal(torch.cat(known, dim=-1))
    low = [found for found in map(low_rank, parts) if found is not None]
    if len(low) == len(parts):
        return DiagonalPlusLowRank(
            torch.cat([part.decay for part in low], dim=-1),
            blocks([part.left for part in low]),
            blocks([part.right for part in low]),
        )
    return Dense(blocks([part.dense() for part in parts]))


def low_rank(A: Transition) -> DiagonalPlusLowRank | None:
    """``A`` as a diagonal plus low rank, if it has that structure; a diagonal has rank 0."""
    if isinstance(A, DiagonalPlusLowRank):
        return A
    decay = A.diagonal()
    if decay is None:
        return None
    empty = decay.new_zeros(()).expand(*decay.shape, 0)
    return DiagonalPlusLowRank(decay, empty, empty)


def blocks(parts: Sequence[Tensor]) -> Shaped[Tensor, "*batch rows columns"]:
    columns = sum(part.shape[-1] for part in parts)
    padded, before = [], 0
    for part in parts:
        after = columns - before - part.shape[-1]
        padded.append(pad(part, (before, after)))
        before += part.shape[-1]
    return torch.cat(padded, dim=-2)
