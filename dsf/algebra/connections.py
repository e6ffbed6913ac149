"""Systems connected to each other: one after the other, added, side by side."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from dsf.algebra.bases import with_conjugates
from dsf.algebra.structures import (
    block_diagonal,
    joint_initial,
    low_rank,
    reading_before,
    same_sequence,
    written_out,
)
from dsf.coefficient import dense_of
from dsf.composite import SystemSum
from dsf.shapes import agree
from dsf.system import System
from dsf.transition import Dense, DiagonalPlusLowRank, Transition


def series(first: System, second: System) -> System:
    """``second`` driven by the response of ``first``; its map is the product of the two maps.

    The states lie one below the other. Diagonals, also with low rank, stay diagonals plus low rank
    (the ports between are added to the rank); other structures are written out, and so are B and
    C: after an attention cache of T tokens that takes T² numbers each.

    Raises:
        ShapeError: if ``first`` puts out what ``second`` does not take in.
        ValueError: if one runs forward and the other backward, or ``second`` takes the real part
            and ``first`` puts out complex numbers.

    Example:
        Twice a delay of one token is a delay of two:

        >>> import dsf, torch
        >>> like = torch.zeros(())
        >>> A = dsf.transition.Shift.register(like, batch=torch.Size(), steps=4, size=2)
        >>> first, last = torch.tensor([1.0, 0]).expand(4, 2), torch.tensor([0, 1.0]).expand(4, 2)
        >>> delay = dsf.System.from_write_and_read(A, write=first, read=last)
        >>> dsf.attention_map(dsf.algebra.series(delay, delay)).diagonal(-2)
        tensor([1., 1.])
    """
    same_sequence("series", [first, second])
    agree("series", "between", first=first.output_size, second=second.input_size)
    if first.runs_backward != second.runs_backward:
        raise ValueError(
            "series: one system runs forward and the other backward, and no single system does "
            "what both do. Respond with one after the other, or multiply their maps."
        )
    if second.takes_real_part and first.dtype.is_complex and not first.takes_real_part:
        raise ValueError(
            "series: the second system gives the real part, so it takes real signals only, but "
            "the first one puts out complex numbers."
        )
    real = second.takes_real_part or (first.takes_real_part and not second.dtype.is_complex)
    if first.takes_real_part:
        first = with_conjugates(first)
    return replace(_cascade(written_out(first), written_out(second)), takes_real_part=real)


def _cascade(first: System, second: System) -> System:
    """Both read after the update, or the whole reads before it."""
    before = first.reads_before_update or second.reads_before_update
    early = reading_before(first)
    late = reading_before(second) if before else second
    outer = early if before else first
    B1, C1, D1 = (dense_of(part) for part in (early.B, early.C, early.feedthrough))
    B2, C2, D2 = (dense_of(part) for part in (late.B, late.C, late.feedthrough))
    C, D = dense_of(outer.C), dense_of(outer.feedthrough)
    B1, C1, D1, B2, C2, D2, C, D = _one_type(B1, C1, D1, B2, C2, D2, C, D)
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
    """Block diagonal, and ``write @ read`` from the states of ``first`` to those of ``second``."""
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


def _one_type(*parts: Tensor) -> list[Tensor]:
    dtype = parts[0].dtype
    for part in parts[1:]:
        dtype = torch.promote_types(dtype, part.dtype)
    return [part.to(dtype) for part in parts]


def parallel(*systems: System | SystemSum) -> System | SystemSum:
    """All systems on one signal, their responses added; the map is the sum of the maps.

    One system whose states lie side by side where all run the same way: diagonals stay diagonal,
    with low rank the ranks add up, other structures are written out, and so are B and C. A
    :class:`SystemSum` where some run forward and some backward, or where some give the real part
    of complex numbers and others the complex numbers themselves.

    Raises:
        ShapeError: if batch, tokens or ports differ.
        ValueError: if there is no system.

    Example:
        A slow and a fast state, each read on its own:

        >>> import dsf, torch
        >>> one = torch.ones(3, 1)
        >>> slow, fast = (
        ...     dsf.System.from_write_and_read(dsf.transition.Diagonal(decay * one), one, one)
        ...     for decay in (0.5, 0.25)
        ... )
        >>> both = dsf.algebra.parallel(slow, fast)
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


def direct_sum(*systems: System) -> System | SystemSum:
    """Every system on ports of its own, side by side; the map holds one map for every system.

    Input and output ports are those of the first system, then of the second, and so on; states and
    structure are as in :func:`parallel`.

    Raises:
        ShapeError: if batch or tokens differ.
        ValueError: if there is no system.

    Example:
        Two tokens, two ports; each port feels its own decay:

        >>> import dsf, torch
        >>> one = torch.ones(2, 1)
        >>> slow, fast = (
        ...     dsf.System.from_write_and_read(dsf.transition.Diagonal(decay * one), one, one)
        ...     for decay in (0.5, 0.25)
        ... )
        >>> dsf.attention_map(dsf.algebra.direct_sum(slow, fast), rows=-1)
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
    """Whether one system can do what all of them do."""
    if len({part.runs_backward for part in parts}) > 1:
        return False
    plain = [part for part in parts if not part.takes_real_part]
    return len(plain) == len(parts) or not any(part.dtype.is_complex for part in plain)


def _stacked(parts: Sequence[System]) -> System:
    before = any(part.reads_before_update for part in parts)
    plain = [written_out(part) for part in parts]
    read = [reading_before(part) for part in plain] if before else plain
    feedthrough = dense_of(read[0].feedthrough)
    for part in read[1:]:
        feedthrough = feedthrough + dense_of(part.feedthrough)
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
