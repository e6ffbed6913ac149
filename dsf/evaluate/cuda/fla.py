"""Heads with a matrix for a state that flash-linear-attention evaluates, where asked for."""

from functools import partial

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.cuda.heads import Answer, by_batch, by_head
from dsf.evaluate.cuda.trials import response_error
from dsf.kernels import asks_for_fla
from dsf.kernels.cuda.fla import FUNCTIONS, TOLERANCE, call
from dsf.kernels.cuda.standing import has_passed
from dsf.system import System


def answered_by_fla(
    system: System, signal: Shaped[Tensor, "*batch time 1 channel"], structure: str
) -> Answer | None:
    """The response and the state left; None where it is not asked, has not passed or has none."""
    if system.reads_before_update or not asks_for_fla():
        return None
    if not fla_has_passed(signal.device, structure, system.state_size, signal.shape[-1]):
        return None
    return recalled_by_fla(system, signal)


def fla_has_passed(device: torch.device, structure: str, states: int, channels: int) -> bool:
    """Whether the library's kernel for a structure may run; it rounds more than ours."""
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
    """What the library makes of a system and its signal; None where it has no kernel."""
    heads = by_head(system, signal)
    made = None if heads is None else call(*heads)
    if made is None:
        return None
    with torch.cuda.device_of(signal):
        found = made.answer()
    return by_batch(system, signal, *found)
