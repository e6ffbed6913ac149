"""Heads with a matrix for a state, handed to the compiled loops of :mod:`dsf.kernels.recall`."""

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from dsf.coefficient import Coefficient, SampledWrite
from dsf.evaluate.border import at_start
from dsf.kernels import applies
from dsf.system import System
from dsf.transition import Diagonal, DiagonalPlusLowRank, ScaledIdentity

# Columns below which too little of a loop's width is used.
FEW_COLUMNS = 16


class Bare(NamedTuple):
    """The parts of a system with one input and one output; a delta rule looks up its memory."""

    decay: Tensor
    gain: Tensor
    write: Tensor
    read: Tensor
    look: Tensor | None = None
    left: Tensor | None = None


def remembered(
    system: System, signal: Tensor, *, out: Tensor | None = None
) -> tuple[Tensor, Tensor] | None:
    """The response of a forward system and the state it leaves; None where no loop applies."""
    if signal.shape[-1] < FEW_COLUMNS or system.input_size * system.output_size != 1:
        return None
    parts, entering = bare_parts(system), at_start(system, signal)
    D = system.feedthrough
    if parts is None or isinstance(D, Coefficient) or not system.batch:
        return None
    work = signal.numel() * system.state_size
    tensors = [part for part in parts if part is not None]
    if not applies(*tensors, D, signal, entering, work=work):
        return None
    if parts.left is not None and not torch.equal(-parts.left, parts.write):
        return None
    bare = signal.squeeze(-2)
    response = placed(bare.shape, bare, None if out is None else out.squeeze(-2))
    return _recalled(parts, D[..., 0, 0], bare, entering, response, system.reads_before_update)


def placed(shape: torch.Size, like: Tensor, memory: Tensor | None) -> Tensor:
    """Memory for a response without gaps: the given one if it serves, else fresh."""
    if memory is None or memory.shape != shape or not memory.is_contiguous():
        return like.new_empty(shape)
    alike = memory.dtype == like.dtype and memory.device == like.device
    return memory.detach() if alike else like.new_empty(shape)


def bare_parts(system: System) -> Bare | None:
    """The parts of a system that loops and kernels know; None if it is of another kind."""
    A, B, C = system.A, system.B, system.C
    if isinstance(C, Coefficient):
        return None
    read = C.squeeze(-2)
    if isinstance(A, (ScaledIdentity, Diagonal)):
        if isinstance(B, SampledWrite):
            return Bare(A.decay, B.step, B.write, read)
        if isinstance(B, Tensor):
            return Bare(A.decay, _ones(B), B.squeeze(-1), read)
    if isinstance(A, DiagonalPlusLowRank) and A.left.shape[-1] == 1 and isinstance(B, Tensor):
        decay = A.decay[..., 0] if A.decay.stride(-1) == 0 else A.decay
        look, left = A.right.squeeze(-1), A.left.squeeze(-1)
        return Bare(decay, _ones(B), B.squeeze(-1), read, look, left)
    return None


def _ones(B: Tensor) -> Tensor:
    return B.new_ones(()).expand(B.shape[:-2])


def _recalled(
    parts: Bare, D: Tensor, signal: Tensor, entering: Tensor, response: Tensor, before: bool
) -> tuple[Tensor, Tensor]:
    from dsf.kernels.recall import Memories, recall

    fixed = D.stride(-1) == 0 or D.shape[-1] == 1
    skip = D[..., 0] if fixed else torch.zeros_like(D[..., 0])
    leaving = torch.empty_like(entering, memory_format=torch.contiguous_format)
    for one in product(*map(range, signal.shape[:-3])):
        write, read = parts.write[one], parts.read[one]
        if parts.look is None and write.stride(0) == read.stride(0) == 0:
            write, read = write[:1], read[:1]
        look = write[:0] if parts.look is None else parts.look[one]
        memories = Memories(parts.decay[one], parts.gain[one], write, read, look, signal[one])
        leaving[one] = recall(memories, skip[one], entering[one], response[one], before=before)
    if not fixed:
        response += D.unsqueeze(-1) * signal
    return response.unsqueeze(-2), leaving
