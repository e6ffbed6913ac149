"""Responses and map rows by compiled CPU loops or CUDA kernels, for the systems they support."""

import warnings
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import cast

import torch
from torch import Tensor

from dsf.evaluate import loops
from dsf.evaluate.arguments import Answer, Signal
from dsf.evaluate.stepwise import recurrent
from dsf.systems.algebra import converted
from dsf.systems.kernels import WORTH, applies, applies_on_cuda
from dsf.systems.system import System

MOST_STATES = 256  # that fit in the registers of one program
TRIED = 150  # tokens of the system at hand on which a kernel is tried
TOLERANCE = 1e-5

_agrees: dict[tuple[Hashable, ...], bool] = {}


def agrees(kind: tuple[Hashable, ...], trial: Callable[[], tuple[Tensor, Tensor]]) -> bool:
    """Whether a kernel agrees with plain torch in double precision.

    Tried once in a process for every kind that is compiled, so that an untested device, driver or
    compiler cannot change a result. A kernel that fails is off, and a warning says so.
    """
    if kind not in _agrees:
        try:
            found, wanted = (part.double().nan_to_num() for part in trial())
            error = float((found - wanted).abs().max())
            _agrees[kind] = error <= TOLERANCE * float(wanted.abs().max())
            why = f"it differs by {error:.0e}"
        except Exception as fault:  # whatever it is, torch operations are used instead
            _agrees[kind], why = False, f"{type(fault).__name__}: {fault}"[:300]
        if not _agrees[kind]:
            warnings.warn(
                f"dsf: a kernel of Triton failed its trial and is off in this process; dsf uses "
                f"torch operations instead, with the same results. Of {kind}: {why}",
                RuntimeWarning,
                stacklevel=2,
            )
    return _agrees[kind]


def answered_on_cuda(system: System, signal: Signal) -> Answer | None:
    """The response of a selective state space; other systems have torch's matrix products there."""
    fits = 0 < system.state_size <= MOST_STATES
    if not fits or signal.numel() * system.state_size < WORTH:
        return None
    channels = loops.channels_of(system, signal)
    if channels is None or not applies_on_cuda(*channels) or not channels.share:
        return None
    few = min(TRIED, system.steps)
    start = replace(system.cut(0, few), initial=system.initial)
    given = signal[..., :few, :, :]

    def trial() -> tuple[Tensor, Tensor]:
        some, exact = loops.channels_of(start, given), converted(start, dtype=torch.float64)
        return scanned(cast("loops.Channels", some))[0], recurrent(exact, given.double())

    kind = ("selective scan", signal.device, system.state_size)
    return scanned(channels) if agrees(kind, trial) else None


def scanned(channels: loops.Channels) -> Answer:
    from dsf.systems.kernels.cuda import selective_scan

    step, signal = channels.step, channels.signal
    batch, size = signal.shape[:-2].numel(), signal.shape[-2:]
    # channels of a sequence share write and read, so those of the first are taken
    write, read = (
        part[..., 0, :, :].reshape(batch, *part.shape[-2:])
        for part in (channels.write, channels.read)
    )
    with torch.cuda.device_of(signal):
        response, leaving = selective_scan(
            step.reshape(batch, *size),
            signal.reshape(batch, *size),
            channels.pole.reshape(batch, *channels.pole.shape[-2:]),
            write,
            read,
            channels.entering.reshape(batch, *channels.entering.shape[-2:]),
        )
    response = response.reshape(signal.shape) + channels.feedthrough * signal
    return response[..., None, None], leaving.view(channels.entering.shape).unsqueeze(-1)


def compiled(system: System, signal: Signal, *, out: Tensor | None = None) -> Answer | None:
    """The response of a forward system and its final state; None where no loop applies."""
    if signal.is_complex():
        return loops.complex_response(system, signal)
    if signal.device.type != "cpu":
        return answered_on_cuda(system, signal)
    return _selective(system, signal, out) or loops.memory_response(system, signal, out=out)


def _selective(system: System, signal: Tensor, out: Tensor | None) -> Answer | None:
    channels = loops.channels_of(system, signal)
    work = signal.numel() * system.state_size
    if channels is None or not applies(*channels, work=work) or not channels.share:
        return None
    from dsf.systems.kernels.recurrences import selective_scan

    step, signal = channels.step, channels.signal
    skip, is_fixed = loops.fixed_skip(channels.feedthrough)
    response = loops.output_memory(None if out is None else out[..., 0, 0].mT, signal.mT)
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
    if not is_fixed:
        response = response + channels.feedthrough * signal
    return response[..., None, None], leaving.unsqueeze(-1)


def row_loops(system: System, last: int) -> Callable[[], loops.RowWriter] | None:
    """What makes a writer of the rows before token ``last``; None where no loop applies."""
    parts = loops.stored_parts(system)
    work = system.batch.numel() * last * last * system.state_size // 2
    if parts is None or not applies(*parts, work=work):
        return None
    heads = loops.heads_of(system)
    if heads is None:
        return partial(loops.diagonal_writer, system, last)
    return partial(loops.HeadWriter, heads)
