"""Systems in single precision whose decays are hard, and what they do in double precision."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import dsf
from dsf.systems.coefficient import SampledWrite, cut_of, dense_of
from dsf.systems.transition import (
    Dense,
    Diagonal,
    DiagonalPlusLowRank,
    SampledDiagonal,
    ScaledIdentity,
)

STATES, COLUMNS = 4, 66
AT_ONCE = 1024  # tokens written out

REGIMES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ordinary": lambda log_decay, _: log_decay,
    "slow": lambda _, chance: -2e-6 * chance,
    "violent": lambda log_decay, chance: torch.where(chance < 0.05, -50.0, log_decay),
    "exact zeros": lambda log_decay, chance: torch.where(chance < 0.01, -1e4, log_decay),
}
STRUCTURES = ("scalar", "diagonal", "delta rule", "dense", "selective", "complex, unchanging")


def drawn(structure: str, regime: str, steps: int) -> tuple[dsf.System, Tensor]:
    """A system with decays of one regime, and a signal for it."""
    rng = torch.Generator().manual_seed(12)
    size: tuple[int, ...] = (1, steps)
    if structure == "complex, unchanging":
        size = (1, 1, STATES)
    elif structure in ("diagonal", "selective"):
        size = (1, steps, STATES) if structure == "diagonal" else (COLUMNS, steps)
    chance = torch.rand(size, generator=rng)
    if size[1] == 1:
        chance[..., 0] = 0  # the first mode is the hard one
    log_decay = REGIMES[regime](-torch.rand(size, generator=rng), chance)
    write, read = torch.randn(2, 1, steps, STATES, generator=rng)
    wide = torch.randn(1, steps, 1, COLUMNS, generator=rng)
    if structure == "selective":
        signal = wide.movedim(-1, 0).flatten(1, 2).unsqueeze(-1)
        return _selective(-log_decay, write, read), signal
    if structure == "complex, unchanging":
        return _unchanging(log_decay, write[:, :1], read[:, :1], steps), wide
    A, write = _transition(structure, log_decay.exp(), write, rng)
    return dsf.System.from_write_and_read(A, write, read), wide


def exact(system: dsf.System, signal: Tensor) -> Tensor:
    """The response, token after token in double precision."""
    state = torch.zeros(*system.batch, STATES, signal.shape[-1], dtype=_fine(system))
    found = []
    for (A, B, C), u in zip(_tokens(system), signal.to(state.dtype).unbind(-3), strict=True):
        state = A @ state + B @ u
        found.append(C @ state)
    return _seen(system, torch.stack(found, dim=-3))


def exact_rows(system: dsf.System, count: int) -> Tensor:
    """The last ``count`` rows of the map, from the last column to the first."""
    found, rows = [], torch.zeros(*system.batch, 0, STATES, dtype=_fine(system))
    for back, (A, B, C) in enumerate(_tokens(system, backward=True)):
        if back < count:
            rows = torch.cat([C, rows], dim=-2)
        column = (rows @ B).squeeze(-1)
        found.append(torch.nn.functional.pad(column, (max(0, count - back - 1), 0)))
        rows = rows @ A
    return _seen(system, torch.stack(found[::-1], dim=-1))


def _fine(system: dsf.System) -> torch.dtype:
    return torch.promote_types(system.dtype, torch.float64)


def _seen(system: dsf.System, found: Tensor) -> Tensor:
    return found.real if system.takes_real_part else found


def _tokens(
    system: dsf.System, *, backward: bool = False
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """A, B and C of every token in double precision."""
    fine, starts = _fine(system), range(0, system.steps, AT_ONCE)
    for start in reversed(starts) if backward else starts:
        stop = min(start + AT_ONCE, system.steps)
        A = system.A.cut(start, stop).to(dtype=fine).window(0, stop - start).dense()
        B, C = (dense_of(cut_of(part, start, stop, fine)) for part in (system.B, system.C))
        tokens = list(zip(A.unbind(-3), B.unbind(-3), C.unbind(-3), strict=True))
        yield from reversed(tokens) if backward else tokens


def _transition(
    structure: str, decay: Tensor, write: Tensor, rng: torch.Generator
) -> tuple[Any, Tensor]:
    """A of one kind, and the writes that go with it."""
    if structure == "scalar":
        return ScaledIdentity(decay, STATES), write
    if structure == "diagonal":
        return Diagonal(decay), write
    steps = decay.shape[-1]
    if structure == "dense":
        turns = torch.linalg.qr(torch.randn(1, steps, STATES, STATES, generator=rng))[0]
        return Dense(decay[..., None, None] * turns), write
    write = torch.nn.functional.normalize(write, dim=-1)
    rate = decay * (0.2 + 1.6 * torch.rand(1, steps, generator=rng))
    left, right = -write.unsqueeze(-1), (rate.unsqueeze(-1) * write).unsqueeze(-1)
    return DiagonalPlusLowRank(decay.unsqueeze(-1).expand(1, steps, STATES), left, right), write


def _selective(step: Tensor, write: Tensor, read: Tensor) -> dsf.System:
    write, read = (part.expand(*step.shape, STATES) for part in (write, read))
    A = SampledDiagonal(step, -torch.linspace(0.5, 2, STATES).expand(len(step), STATES))
    return dsf.System(A, SampledWrite(step, write), read.unsqueeze(-2), None)


def _unchanging(log_decay: Tensor, write: Tensor, read: Tensor, steps: int) -> dsf.System:
    turning = torch.linspace(0.1, 2.5, STATES).expand_as(log_decay)
    parts = torch.polar(log_decay.exp(), turning), write + 0.5j, read - 0.3j
    decay, write, read = (part.expand(1, steps, STATES) for part in parts)
    return dsf.System.from_write_and_read(Diagonal(decay), write, read, takes_real_part=True)
