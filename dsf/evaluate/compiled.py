"""Responses and map rows by compiled CPU loops or CUDA kernels, for the systems they support."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.arguments import Answer, Signal
from dsf.evaluate.cuda import answered_on_cuda, rows_on_cuda, writes_on_cuda
from dsf.evaluate.heads import heads_of
from dsf.evaluate.loops import (
    channels_of,
    complex_response,
    diagonal_rows,
    head_rows,
    is_diagonal,
    memory_response,
    output_memory,
)
from dsf.evaluate.output_buffers import RowBuffer
from dsf.systems.coefficient import Coefficient, SampledWrite
from dsf.systems.kernels import applies
from dsf.systems.system import System
from dsf.systems.transition import Diagonal, SampledDiagonal, ScaledIdentity
from dsf.systems.transition.storage import tensors_of

RowLoops = Callable[[list[int], RowBuffer], Iterator[Shaped[Tensor, "*batch rows columns"]]]
"""From the boundaries of windows of tokens, and memory, to the rows of each window."""


def compiled(system: System, signal: Signal, *, out: Tensor | None = None) -> Answer | None:
    """The response of a forward system and its final state; None where no loop applies."""
    if signal.is_complex():
        return complex_response(system, signal)
    if signal.device.type != "cpu":
        return answered_on_cuda(system, signal)
    return _selective(system, signal, out) or memory_response(system, signal, out=out)


def _selective(system: System, signal: Tensor, out: Tensor | None) -> Answer | None:
    channels = channels_of(system, signal)
    work = signal.numel() * system.state_size
    if channels is None or not applies(*channels, work=work) or not channels.share:
        return None
    from dsf.systems.kernels.selective import selective_scan

    memory = None if out is None or out.ndim != signal.ndim else out[..., 0, 0].mT
    step, signal, skip = channels.step, channels.signal, channels.skip
    response = output_memory(signal.mT.shape, signal, memory)
    leaving = torch.empty_like(channels.entering, memory_format=torch.contiguous_format)
    for one in product(*map(range, signal.shape[:-2])):
        selective_scan(
            step[one].mT,
            signal[one].mT,
            channels.pole[one],
            channels.write[one][0],
            channels.read[one][0],
            skip[one],
            channels.entering[one],
            into=(response[one], leaving[one]),
        )
    response = response.mT
    if not channels.has_fixed_skip:
        response = response + channels.feedthrough * signal
    return response[..., None, None], leaving.unsqueeze(-1)


def row_loops(system: System, last: int) -> RowLoops | None:
    """The compiled loops or kernels of the rows before token ``last``; None where none applies."""
    parts = stored_parts(system)
    if parts is None:
        return None
    heads = heads_of(system)
    if heads is None and not is_diagonal(system):
        return None
    work = system.batch.numel() * last * last * system.state_size // 2
    if system.device.type != "cpu":
        return partial(rows_on_cuda, system) if writes_on_cuda(system, parts, work=work) else None
    if not applies(*parts, work=work):
        return None
    return partial(diagonal_rows, system) if heads is None else partial(head_rows, heads)


def stored_parts(system: System) -> list[Tensor] | None:
    """All tensors of a system with a diagonal A; None for other systems."""
    if not isinstance(system.A, Diagonal | SampledDiagonal | ScaledIdentity):
        return None
    parts = tensors_of(system.A)
    for part in (system.B, system.C, system.feedthrough):
        if isinstance(part, Coefficient) and not isinstance(part, SampledWrite):
            return None
        parts += [part] if isinstance(part, Tensor) else tensors_of(part)
    return parts
