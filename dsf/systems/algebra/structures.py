"""Which structure of A_t is preserved when systems are combined, and the combined coefficients."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.runtime.shapes import ShapeError, agree
from dsf.systems.coefficient import dense_of
from dsf.systems.system import System
from dsf.systems.transition import (
    Dense,
    Diagonal,
    DiagonalPlusLowRank,
    SampledDiagonal,
    Transition,
)


def written_out(system: System) -> System:
    """The system with B, C and D as stored tensors, and all parts in its common number type."""
    dtype = system.dtype
    return replace(
        system,
        A=system.A.to(dtype=dtype),
        B=dense_of(system.B).to(dtype),
        C=dense_of(system.C).to(dtype),
        D=dense_of(system.feedthrough).to(dtype),
    )


def reading_before(system: System) -> System:
    """The same system, reading before the update: ``y = C_t A_t h_{t-1} + (C_t B_t + D_t) u_t``.

    Every system has this form; the reverse conversion would need invertible A_t.
    """
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
    channel = given[0].shape[-1]
    return torch.cat(
        [
            given[0].new_zeros(*system.batch, system.state_size, channel)
            if system.initial is None
            else system.initial
            for system in systems
        ],
        dim=-2,
    )


def same_sequence(owner: str, systems: Sequence[System]) -> None:
    """Raise unless all systems have the same batch axes and tokens and are on the same device."""
    names = [f"system {k}" for k in range(len(systems))]
    batches = [tuple(system.batch) for system in systems]
    agree(owner, "batch", **dict(zip(names, batches, strict=True)))
    agree(owner, "time", **dict(zip(names, [each.steps for each in systems], strict=True)))
    devices = {str(system.device) for system in systems}
    if len(devices) > 1:
        raise ShapeError(f"{owner}: all systems must be on one device, but they are on {devices}.")


def block_diagonal(parts: Sequence[Transition]) -> Transition:
    """The block-diagonal transition of the stacked states.

    Diagonals stay diagonal, and stay lazily sampled when all have the same step sizes; if some are
    diagonal plus low rank, the ranks add up; every other structure becomes dense.
    """
    if len(parts) == 1:
        return parts[0]
    sampled = [part for part in parts if isinstance(part, SampledDiagonal)]
    if len(sampled) == len(parts) and all(_same(part.step, sampled[0].step) for part in sampled):
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
        padded.append(torch.nn.functional.pad(part, (before, after)))
        before += part.shape[-1]
    return torch.cat(padded, dim=-2)


def _same(left: Tensor, right: Tensor) -> bool:
    return left is right or (left.shape == right.shape and torch.equal(left, right))
