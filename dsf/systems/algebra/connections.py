"""Connections of systems: in series, in parallel (added), and as a direct sum of ports."""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import pad

from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import agree
from dsf.systems.algebra.bases import with_conjugates
from dsf.systems.algebra.structures import (
    block_diagonal,
    joint_initial,
    low_rank,
    reading_before,
    same_sequence,
    written_out,
)
from dsf.systems.coefficient import dense_of
from dsf.systems.composite import SystemSum
from dsf.systems.system import System
from dsf.systems.transition import Dense, DiagonalPlusLowRank, Transition


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
    return replace(_cascade(written_out(first), written_out(second)), takes_real_part=real)


def _cascade(first: System, second: System) -> System:
    """The cascade reads after the update if both systems do, and before the update otherwise."""
    before = first.reads_before_update or second.reads_before_update
    early = reading_before(first)
    late = reading_before(second) if before else second
    outer = early if before else first
    B1, C1, D1 = (dense_of(part) for part in (early.B, early.C, early.feedthrough))
    B2, C2, D2 = (dense_of(part) for part in (late.B, late.C, late.feedthrough))
    C, D = dense_of(outer.C), dense_of(outer.feedthrough)
    parts = (B1, C1, D1, B2, C2, D2, C, D)
    dtype = reduce(torch.promote_types, (part.dtype for part in parts))
    B1, C1, D1, B2, C2, D2, C, D = (part.to(dtype) for part in parts)
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
    low = low_rank(block_diagonal([first, second]))
    if low is None:
        joint = block_diagonal([first, second]).dense()
        return Dense(joint + left @ right.mT)
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
    parts = [part for system in systems for part in _parts(system)]
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


def _parts(system: System | SystemSum) -> Sequence[System]:
    return system.parts if isinstance(system, SystemSum) else (system,)


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
