"""Trials of CUDA kernels: small random systems compared with a double-precision reference."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.row_windows import forward_rows
from dsf.evaluate.stepwise import recurrent
from dsf.systems.coefficient import SampledWrite
from dsf.systems.system import System
from dsf.systems.transition import (
    Diagonal,
    DiagonalPlusLowRank,
    SampledDiagonal,
    ScaledIdentity,
    Transition,
)

# Two sequences of three heads; numbers of tokens and states are no multiples of the tile sizes.
BATCH, STEPS, LONG = (2, 3), 75, 150
BORDERS = [5, 70, LONG]
SINGLE: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # whatever the defaults are

Run = Callable[[System, Tensor], tuple[Tensor, Tensor] | None]
Write = Callable[[System, list[int]], Iterator[Tensor]]


class Draw:
    """Random numbers in single precision on one device, from a fixed seed."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.rng = device, torch.Generator().manual_seed(0)

    def normal(self, *size: int) -> Tensor:
        return torch.randn(*size, generator=self.rng, **SINGLE).to(self.device)

    def decay(self, *size: int) -> Tensor:
        """Factors per token: most between 1/2 and 1, some 1e-20, close to one, or exactly zero."""
        chance, decay = torch.rand(2, *size, generator=self.rng, **SINGLE)
        decay = 0.5 + decay / 2
        for share, other in ((0.15, 1 - 1e-6), (0.1, 1e-20), (0.05, 0.0)):
            decay = torch.where(chance < share, other, decay)
        return decay.to(self.device)

    def shared(self, *size: int) -> Tensor:
        """The same vectors for all heads of a sequence, stored once."""
        return self.normal(BATCH[0], 1, *size).expand(*BATCH, *size)

    def system(self, structure: str, *, states: int, steps: int, before: bool) -> System:
        """A system with one port, all of whose coefficients are non-zero.

        ``structure`` names its transition.
        """
        write, read = self.shared(steps, states), self.shared(steps, states)
        D = self.normal(*BATCH, steps, 1, 1)
        key = torch.nn.functional.normalize(write, dim=-1)
        if "delta" in structure:
            write = 2 * self.decay(*BATCH, steps, 1) * key
        A = self._transition(structure, write, key, steps)
        sampled = SampledWrite(A.step, write) if isinstance(A, SampledDiagonal) else None
        B = sampled or write.unsqueeze(-1)
        return System(A, B, read.unsqueeze(-2), D, reads_before_update=before)

    def _transition(self, structure: str, write: Tensor, key: Tensor, steps: int) -> Transition:
        states = key.shape[-1]
        if structure == "scalar":
            return ScaledIdentity(self.decay(*BATCH, steps), states)
        if structure == "sampled":
            step = self.decay(*BATCH, steps).clamp(min=1e-20).log().neg()
            return SampledDiagonal(step, -0.5 - self.decay(*BATCH, states))
        if structure == "diagonal":
            return Diagonal(self.decay(*BATCH, steps, states))
        one = self.decay(*BATCH, steps, 1 if structure == "scalar delta" else states)
        decay = one.expand(*BATCH, steps, states)
        return DiagonalPlusLowRank(decay, -write.unsqueeze(-1), (decay * key).unsqueeze(-1))


def response_error(
    run: Run, device: torch.device, structure: str, *, states: int, channels: int, before: bool
) -> float:
    """The largest error of ``run``, relative to the largest entry.

    The reference is the recurrence in double precision.
    """
    draw = Draw(device)
    system = draw.system(structure, states=states, steps=STEPS, before=before)
    signal = draw.normal(*BATCH, STEPS, 1, channels)
    entering = draw.normal(*BATCH, states, channels)
    answer = run(replace(system, initial=entering), signal)
    if answer is None:
        raise TypeError(f"the kernel does not take a system that is {structure}")
    exact = system.window(0, STEPS, dtype=torch.float64)
    exact = replace(exact, initial=entering.double())
    wanted = recurrent(exact, signal.double())
    eye = torch.eye(states, dtype=wanted.dtype, device=device).expand(*BATCH, STEPS, -1, -1)
    shown = System(exact.A, exact.B, eye, initial=exact.initial)
    states_after = recurrent(shown, signal.double())
    return max(_apart(answer[0], wanted), _apart(answer[1], states_after[..., -1, :, :]))


def rows_error(
    write: Write, device: torch.device, structure: str, *, states: int, before: bool
) -> float:
    """The same for rows of the map, starting with one inside a tile."""
    system = Draw(device).system(structure, states=states, steps=LONG, before=before)
    exact = system.window(0, LONG, dtype=torch.float64)
    found = zip(write(system, BORDERS), forward_rows(exact, BORDERS), strict=True)
    return max(_apart(rows, wanted) for rows, wanted in found)


def _apart(found: Shaped[Tensor, "*axes"], wanted: Shaped[Tensor, "*axes"]) -> float:
    return float((found.double() - wanted).abs().max() / wanted.abs().max())
