"""Random systems in single precision for the kernels of CUDA."""

from typing import Any

import torch
from torch import Tensor

from dsf.systems.coefficient import SampledWrite
from dsf.systems.system import System
from dsf.systems.transition import (
    Diagonal,
    DiagonalPlusLowRank,
    SampledDiagonal,
    ScaledIdentity,
    Transition,
)

# Two sequences of three heads; numbers of tokens and states are not multiples of the tile sizes.
BATCH, STEPS, LONG = (2, 3), 75, 150
BORDERS = [5, 70, LONG]
SINGLE: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # whatever the defaults are


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
        """A system with one port, all of whose coefficients are non-zero."""
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
