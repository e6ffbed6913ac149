"""Responses by CUDA kernels, for systems where one applies and has passed its trial.

- ``answered_by_fla``: matrix memories and delta rules by flash-linear-attention, where asked for.
- ``scanned``: selective state spaces by the scan of :mod:`dsf.systems.kernels.cuda.selective`.
- ``recalled``: matrix memories and delta rules by :mod:`dsf.systems.kernels.cuda.memories`.

The functions ``..._has_passed`` say whether a kernel may run on this device.
"""

from functools import partial

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.arguments import state_at_start
from dsf.evaluate.cuda.heads import Answer, by_batch, by_head, one_port_parts
from dsf.evaluate.cuda.trials import response_error
from dsf.evaluate.loops.responses import Channels, channels_of
from dsf.systems.coefficient import Coefficient
from dsf.systems.kernels import applies_on_cuda, asks_for_fla
from dsf.systems.kernels.availability import WORTH
from dsf.systems.kernels.cuda.fla import FUNCTIONS, TOLERANCE, call
from dsf.systems.kernels.cuda.trial_results import DELTA_RULES, MEMORIES, SELECTIVE, has_passed
from dsf.systems.system import System


def answered_by_fla(
    system: System, signal: Shaped[Tensor, "*batch time 1 channel"], structure: str
) -> Answer | None:
    """The response and the final state by flash-linear-attention.

    None where the library was not asked for, its kernel failed the trial, or it has no kernel.
    """
    if system.reads_before_update or not asks_for_fla():
        return None
    if not fla_has_passed(signal.device, structure, system.state_size, signal.shape[-1]):
        return None
    return recalled_by_fla(system, signal)


def fla_has_passed(device: torch.device, structure: str, states: int, channels: int) -> bool:
    """Whether the library's kernel for a structure may run; its tolerance is larger, for TF32."""
    trial = partial(
        response_error,
        recalled_by_fla,
        device,
        structure,
        states=states,
        channels=channels,
        before=False,
    )
    kind, label = (states, channels), FUNCTIONS[structure].label
    return has_passed(label, device, kind, trial, tolerance=TOLERANCE)


def recalled_by_fla(
    system: System, signal: Shaped[Tensor, "*batch time 1 channel"]
) -> Answer | None:
    """The response and the final state by the library; None where it has no kernel."""
    heads = by_head(system, signal)
    made = None if heads is None else call(*heads)
    if made is None:
        return None
    with torch.cuda.device_of(signal):
        found = made.answer()
    return by_batch(system, signal, *found)


MOST_STATES = 256  # that fit in the registers of one program
MOST_TOKENS = 16 * 65_535  # as chunks of 16 tokens are one axis of the launch grid
MANY_CHANNELS = 70  # channels of a trial: more than one program takes


def answered_on_cuda(
    system: System, signal: Shaped[Tensor, "*batch time input channel"]
) -> Answer | None:
    """The response of a forward system and its final state; None where no kernel may run."""
    fits = 0 < system.state_size <= MOST_STATES and system.steps <= MOST_TOKENS
    if not fits or signal.numel() * system.state_size < WORTH:
        return None
    return _scanned(system, signal) or _recalled(system, signal)


def _scanned(system: System, signal: Tensor) -> Answer | None:
    channels = channels_of(system, signal)
    if channels is None or not applies_on_cuda(*channels) or not channels.share:
        return None
    states = system.state_size
    return scanned(channels) if scan_has_passed(signal.device, states) else None


def scan_has_passed(device: torch.device, states: int) -> bool:
    """Whether the selective scan may run."""

    def run(system: System, signal: Tensor) -> Answer | None:
        channels = channels_of(system, signal)
        return None if channels is None else scanned(channels)

    trial = partial(response_error, run, device, "sampled", states=states, channels=1, before=False)
    return has_passed(SELECTIVE, device, states, trial)


def scanned(channels: Channels) -> Answer:
    """The response of channels and their final state by the selective scan."""
    from dsf.systems.kernels.cuda.selective import selective_scan

    step, signal = channels.step, channels.signal
    batch, size = signal.shape[:-2].numel(), signal.shape[-2:]
    with torch.cuda.device_of(signal):
        response, leaving = selective_scan(
            step.reshape(batch, *size),
            signal.reshape(batch, *size),
            channels.pole.reshape(batch, *channels.pole.shape[-2:]),
            _of_first(channels.write, batch),
            _of_first(channels.read, batch),
            channels.skip.reshape(batch, -1),
            channels.entering.reshape(batch, *channels.entering.shape[-2:]),
        )
    response = response.view(signal.shape)
    if not channels.has_fixed_skip:
        response = response + channels.feedthrough * signal
    return response[..., None, None], leaving.view(channels.entering.shape).unsqueeze(-1)


def _of_first(part: Tensor, batch: int) -> Tensor:
    """The part that all channels of a sequence share, taken from the first of them."""
    return part[..., 0, :, :].reshape(batch, *part.shape[-2:])


def _recalled(system: System, signal: Tensor) -> Answer | None:
    parts = one_port_parts(system)
    if parts is None or isinstance(system.feedthrough, Coefficient):
        return None
    tensors = [part for part in parts if part is not None]
    if not applies_on_cuda(*tensors, system.feedthrough, signal, state_at_start(system, signal)):
        return None
    if parts.left is not None and not torch.equal(-parts.left, parts.write):
        return None
    structure = "scalar" if parts.decay.ndim < parts.write.ndim else "diagonal"
    structure += "" if parts.look is None else " delta"
    answer = answered_by_fla(system, signal, structure)
    if answer is not None:
        return answer
    columns = min(signal.shape[-1], MANY_CHANNELS)
    before = system.reads_before_update
    if not recall_has_passed(signal.device, structure, system.state_size, columns, before=before):
        return None
    return recalled(system, signal)


def recall_has_passed(
    device: torch.device, structure: str, states: int, channels: int, *, before: bool
) -> bool:
    """Whether the kernel for matrix memories, with or without a delta rule, may run."""
    name = DELTA_RULES if "delta" in structure else MEMORIES
    trial = partial(
        response_error,
        recalled,
        device,
        structure,
        states=states,
        channels=channels,
        before=before,
    )
    return has_passed(name, device, (structure, states, channels, before), trial)


def recalled(system: System, signal: Tensor) -> Answer:
    """The response and the final state by the kernel for matrix memories."""
    from dsf.systems.kernels.cuda.memories import recall

    heads = by_head(system, signal)
    if heads is None:
        raise TypeError(f"recalled: no kernel takes {type(system.A).__name__}.")
    with torch.cuda.device_of(signal):
        response, leaving = recall(*heads, before=system.reads_before_update)
    return by_batch(system, signal, response, leaving)
