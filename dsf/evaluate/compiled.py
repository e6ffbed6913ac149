"""Systems that a compiled loop or a kernel evaluates, where one applies: :mod:`dsf.kernels`."""

from itertools import product

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.cuda.responses import answered_on_cuda
from dsf.evaluate.loops.channels import Channels, channels_of
from dsf.evaluate.loops.memories import placed, remembered
from dsf.kernels import applies
from dsf.system import System

Answer = tuple[Shaped[Tensor, "*batch time output channel"], Shaped[Tensor, "*batch state channel"]]


def compiled(
    system: System,
    signal: Shaped[Tensor, "*batch time input channel"],
    *,
    out: Tensor | None = None,
) -> Answer | None:
    """The response of a forward system and the state it leaves; None where no loop applies."""
    if signal.is_complex():
        return None
    if signal.device.type != "cpu":
        return answered_on_cuda(system, signal)
    return _selective(system, signal, out) or remembered(system, signal, out=out)


def _selective(system: System, signal: Tensor, out: Tensor | None) -> Answer | None:
    channels = channels_of(system, signal)
    work = signal.numel() * system.state_size
    if channels is None or not applies(*channels, work=work) or not channels.share:
        return None
    memory = None if out is None or out.ndim != signal.ndim else out[..., 0, 0].mT
    return _scanned(channels, memory)


def _scanned(channels: Channels, memory: Tensor | None) -> Answer:
    from dsf.kernels.selective import selective_scan

    step, signal, skip = channels.step, channels.signal, channels.skip
    response = placed(signal.mT.shape, signal, memory)
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
