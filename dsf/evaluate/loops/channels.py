"""Channels that share what they write and read and are sampled each at its own steps: Mamba."""

from typing import NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.coefficient import Coefficient, SampledWrite
from dsf.evaluate.border import at_start
from dsf.system import System
from dsf.transition import SampledDiagonal


class Channels(NamedTuple):
    """A system for every channel, and what drives it; the last axis of the batch is theirs."""

    step: Shaped[Tensor, "*batch time"]
    pole: Shaped[Tensor, "*batch state"]
    gain: Shaped[Tensor, "*batch time"]
    write: Shaped[Tensor, "*batch time state"]
    read: Shaped[Tensor, "*batch time state"]
    feedthrough: Shaped[Tensor, "*batch time"]
    signal: Shaped[Tensor, "*batch time"]
    entering: Shaped[Tensor, "*batch state"]

    @property
    def share(self) -> bool:
        """Whether all write and read alike, each with the steps of its own decays."""
        together = _is_shared(self.write, -3) and _is_shared(self.read, -3)
        return together and _is_same(self.step, self.gain)

    @property
    def has_fixed_skip(self) -> bool:
        """Whether what passes by the state is the same for all tokens."""
        return self.feedthrough.stride(-1) == 0 or self.feedthrough.shape[-1] == 1

    @property
    def skip(self) -> Shaped[Tensor, "*batch"]:
        """What passes by the state where that is fixed, else zeros."""
        first = self.feedthrough[..., 0]
        return first if self.has_fixed_skip else torch.zeros_like(first)


def channels_of(
    system: System, signal: Shaped[Tensor, "*batch time input channel"]
) -> Channels | None:
    """``system`` and what drives it as channels; None if it is of another kind."""
    A, B, C, D = system.A, system.B, system.C, system.feedthrough
    if not (isinstance(A, SampledDiagonal) and isinstance(B, SampledWrite)):
        return None
    if isinstance(C, Coefficient) or isinstance(D, Coefficient) or system.reads_before_update:
        return None
    if not system.batch or signal.shape[-1] != 1 or C.shape[-2] != 1:
        return None
    vectors, held = signal[..., 0, 0], at_start(system, signal)[..., 0]
    return Channels(A.step, A.pole, B.step, B.write, C.squeeze(-2), D[..., 0, 0], vectors, held)


def _is_shared(part: Tensor, axis: int) -> bool:
    return part.shape[axis] == 1 or part.stride(axis) == 0


def _is_same(one: Tensor, other: Tensor) -> bool:
    alike = one.data_ptr() == other.data_ptr() and one.stride() == other.stride()
    return alike or torch.equal(one, other)
