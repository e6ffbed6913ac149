"""Responses by compiled CPU loops: which systems they support, and as which arrays.

- ``memory_response``: matrix memories, with one decay a token, one a state, or a delta rule.
- ``modes_response``: time-invariant complex diagonals that take the real part, such as S4D.
- ``channels_of``: the channels of a selective state space (Mamba), each with its own diagonal.
"""

from itertools import product
from typing import NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.arguments import state_at_start
from dsf.evaluate.invariant import first_token, varying
from dsf.systems.coefficient import Coefficient, SampledWrite
from dsf.systems.kernels import applies
from dsf.systems.system import System
from dsf.systems.transition import Diagonal, DiagonalPlusLowRank, SampledDiagonal, ScaledIdentity

# With fewer columns the loops would leave most SIMD lanes unused.
FEW_COLUMNS = 16


class BareArrays(NamedTuple):
    """The coefficients of a system with one input and one output, as tensors.

    ``B_t = gain_t write_t`` and ``C_t = read_t``. For a delta rule, ``left_t look_tᵀ`` is the
    low-rank term of A_t: the memory is read at ``look`` before it is overwritten. What the loops
    are given has no ``left`` where that is ``-write``.
    """

    decay: Tensor
    gain: Tensor
    write: Tensor
    read: Tensor
    look: Tensor | None = None
    left: Tensor | None = None


def memory_response(
    system: System, signal: Tensor, *, out: Tensor | None = None
) -> tuple[Tensor, Tensor] | None:
    """The response of a forward system and its final state; None where no loop applies."""
    if signal.shape[-1] < FEW_COLUMNS or system.input_size * system.output_size != 1:
        return None
    parts, entering = bare_arrays(system), state_at_start(system, signal)
    D = system.feedthrough
    if parts is None or isinstance(D, Coefficient) or not system.batch:
        return None
    work = signal.numel() * system.state_size
    tensors = [part for part in parts if part is not None]
    if not applies(*tensors, D, signal, entering, work=work):
        return None
    if parts.left is not None:
        from dsf.systems.kernels.memories import are_opposite

        if are_opposite(parts.left, parts.write):
            parts = parts._replace(left=None)
        elif parts.decay.ndim < parts.write.ndim:  # one decay a token
            parts = parts._replace(decay=parts.decay.unsqueeze(-1).expand_as(parts.write))
    bare = signal.squeeze(-2)
    response = output_memory(bare.shape, bare, None if out is None else out.squeeze(-2))
    return _recalled(parts, D[..., 0, 0], bare, entering, response, system.reads_before_update)


def output_memory(shape: torch.Size, like: Tensor, memory: Tensor | None) -> Tensor:
    """Contiguous memory for a response: the given tensor if shape and type fit, else a new one."""
    if memory is None or memory.shape != shape or not memory.is_contiguous():
        return like.new_empty(shape)
    alike = memory.dtype == like.dtype and memory.device == like.device
    return memory.detach() if alike else like.new_empty(shape)


def bare_arrays(system: System) -> BareArrays | None:
    """The coefficients of a system that the loops and kernels support; None for other systems."""
    A, B, C = system.A, system.B, system.C
    if isinstance(C, Coefficient):
        return None
    read = C.squeeze(-2)
    if isinstance(A, (ScaledIdentity, Diagonal)):
        if isinstance(B, SampledWrite):
            return BareArrays(A.decay, B.step, B.write, read)
        if isinstance(B, Tensor):
            return BareArrays(A.decay, _ones(B), B.squeeze(-1), read)
    if isinstance(A, DiagonalPlusLowRank) and A.left.shape[-1] == 1 and isinstance(B, Tensor):
        decay = A.decay[..., 0] if A.decay.stride(-1) == 0 else A.decay
        look, left = A.right.squeeze(-1), A.left.squeeze(-1)
        return BareArrays(decay, _ones(B), B.squeeze(-1), read, look, left)
    return None


def _ones(B: Tensor) -> Tensor:
    return B.new_ones(()).expand(B.shape[:-2])


def _recalled(
    parts: BareArrays, D: Tensor, signal: Tensor, entering: Tensor, response: Tensor, before: bool
) -> tuple[Tensor, Tensor]:
    from dsf.systems.kernels.memories import Memories, recall

    fixed = D.stride(-1) == 0 or D.shape[-1] == 1
    skip = D[..., 0] if fixed else torch.zeros_like(D[..., 0])
    leaving = torch.empty_like(entering, memory_format=torch.contiguous_format)
    for one in product(*map(range, signal.shape[:-3])):
        write, read = parts.write[one], parts.read[one]
        if parts.look is None and write.stride(0) == read.stride(0) == 0:
            write, read = write[:1], read[:1]
        look = write[:0] if parts.look is None else parts.look[one]
        left = write[:0] if parts.left is None else parts.left[one]
        memories = Memories(parts.decay[one], parts.gain[one], write, read, look, left, signal[one])
        leaving[one] = recall(memories, skip[one], entering[one], response[one], before=before)
    if not fixed:
        response += D.unsqueeze(-1) * signal
    return response.unsqueeze(-2), leaving


def modes_response(
    system: System,
    signal: Shaped[Tensor, "*batch time input channel"],
    *,
    out: Tensor | None = None,
) -> Shaped[Tensor, "*batch time output channel"] | None:
    """The real part of the response to a real signal; None where the loop does not apply.

    The signal is not converted to complex numbers, which would take longer than the loop itself.
    """
    if not (system.takes_real_part and system.dtype.is_complex) or signal.is_complex():
        return None
    from_rest = system.initial is None and not (system.runs_backward or system.reads_before_update)
    one_port = system.input_size * system.output_size == 1
    if not (from_rest and one_port) or signal.dtype != system.dtype.to_real():
        return None
    A, B, C, D = first_token(system, system.dtype)
    decay, work = A.diagonal(), signal.numel() * system.state_size
    if decay is None or not (applies(decay, B, C, work=work) and applies(signal, work=work)):
        return None
    if varying(system) is not None:
        return None
    from dsf.systems.kernels.modes import modes_response

    columns = signal.squeeze(-2).mT
    flat = columns.reshape(-1, system.steps)

    def of_columns(part: Tensor) -> Tensor:
        """``part`` of every batch entry, repeated for each of its signal columns."""
        return part.expand(*columns.shape[:-1], part.shape[-1]).reshape(len(flat), -1)

    decay, weight, skip = map(of_columns, (decay, B.mT * C, D.real))
    memory = None if out is None or out.ndim != signal.ndim else out.squeeze(-2).mT.flatten(0, -2)
    response = output_memory(flat.shape, flat, memory)
    modes_response(decay, weight, skip.squeeze(-1), flat, into=response)
    return response.view(columns.shape).mT.unsqueeze(-2)


class Channels(NamedTuple):
    """A selective diagonal for every channel, and its signal; channels are the last batch axis."""

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
        """Whether all channels share write and read, and each uses one step for decay and input."""
        together = _is_shared(self.write, -3) and _is_shared(self.read, -3)
        return together and _is_same(self.step, self.gain)

    @property
    def has_fixed_skip(self) -> bool:
        """Whether the feedthrough is the same for all tokens."""
        return self.feedthrough.stride(-1) == 0 or self.feedthrough.shape[-1] == 1

    @property
    def skip(self) -> Shaped[Tensor, "*batch"]:
        """The feedthrough where it is the same for all tokens, else zeros."""
        first = self.feedthrough[..., 0]
        return first if self.has_fixed_skip else torch.zeros_like(first)


def channels_of(
    system: System, signal: Shaped[Tensor, "*batch time input channel"]
) -> Channels | None:
    """``system`` and its signal as channels; None if it is not of this form."""
    A, B, C, D = system.A, system.B, system.C, system.feedthrough
    if not (isinstance(A, SampledDiagonal) and isinstance(B, SampledWrite)):
        return None
    if isinstance(C, Coefficient) or isinstance(D, Coefficient) or system.reads_before_update:
        return None
    if not system.batch or signal.shape[-1] != 1 or C.shape[-2] != 1:
        return None
    values, start = signal[..., 0, 0], state_at_start(system, signal)[..., 0]
    return Channels(A.step, A.pole, B.step, B.write, C.squeeze(-2), D[..., 0, 0], values, start)


def _is_shared(part: Tensor, axis: int) -> bool:
    return part.shape[axis] == 1 or part.stride(axis) == 0


def _is_same(one: Tensor, other: Tensor) -> bool:
    alike = one.data_ptr() == other.data_ptr() and one.stride() == other.stride()
    return alike or torch.equal(one, other)
