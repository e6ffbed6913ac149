"""Systems that a compiled loop evaluates, where one applies (see :mod:`dsf.kernels`)."""

from itertools import product

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.coefficient import Coefficient, SampledWrite
from dsf.evaluate.border import at_start
from dsf.evaluate.memories import remembered
from dsf.kernels import applies
from dsf.system import System
from dsf.transition import SampledDiagonal

Answer = tuple[Shaped[Tensor, "*batch time output channel"], Shaped[Tensor, "*batch state channel"]]


def compiled(system: System, signal: Shaped[Tensor, "*batch time input channel"]) -> Answer | None:
    """The response of a forward system and the state it leaves; None where no loop applies."""
    if signal.is_complex():
        return None
    return _selective(system, signal) or remembered(system, signal)


def _selective(system: System, signal: Tensor) -> Answer | None:
    """Mamba: channels side by side, their decays sampled where they are needed."""
    A, B, C, D = system.A, system.B, system.C, system.feedthrough
    if not (isinstance(A, SampledDiagonal) and isinstance(B, SampledWrite)):
        return None
    if isinstance(C, Coefficient) or isinstance(D, Coefficient) or system.reads_before_update:
        return None
    if not system.batch or signal.shape[-1] != 1 or C.shape[-2] != 1:
        return None
    entering = at_start(system, signal)
    parts = (A.step, A.pole, B.step, B.write, C, D, signal, entering)
    if not applies(*parts, work=signal.numel() * system.state_size):
        return None
    if not (_is_shared(B.write, -3) and _is_shared(C, -4) and _is_same(A.step, B.step)):
        return None
    return _scanned(A, B.write, C.squeeze(-2), D[..., 0, 0], signal[..., 0, 0], entering[..., 0])


def _scanned(
    A: SampledDiagonal, write: Tensor, read: Tensor, D: Tensor, signal: Tensor, entering: Tensor
) -> Answer:
    from dsf.kernels.selective import selective_scan

    fixed = D.stride(-1) == 0 or D.shape[-1] == 1
    skip = D[..., 0] if fixed else torch.zeros_like(D[..., 0])
    response = signal.new_empty(signal.mT.shape)
    leaving = torch.empty_like(entering, memory_format=torch.contiguous_format)
    for one in _each(signal.shape[:-2]):
        selective_scan(
            A.step[one].mT,
            signal[one].mT,
            A.pole[one],
            write[one][0],
            read[one][0],
            skip[one],
            entering[one],
            into=(response[one], leaving[one]),
        )
    response = response.mT if fixed else response.mT + D * signal
    return response[..., None, None], leaving.unsqueeze(-1)


def _each(batch: torch.Size) -> list[tuple[int, ...]]:
    """The index of every entry of the batch axes."""
    return list(product(*map(range, batch)))


def _is_shared(part: Tensor, axis: int) -> bool:
    return part.shape[axis] == 1 or part.stride(axis) == 0


def _is_same(one: Tensor, other: Tensor) -> bool:
    alike = one.data_ptr() == other.data_ptr() and one.stride() == other.stride()
    return alike or torch.equal(one, other)
