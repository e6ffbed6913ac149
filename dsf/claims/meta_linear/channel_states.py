"""Families with a head for every channel: Mamba, S5, LRU, RWKV-4, HGRN, Griffin."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dsf.claims.meta_linear.family import Family, Form, drawn, response
from dsf.mixers import HGRN, LRU, RGLRU, RWKV4, S5, SelectiveStateSpace


def mamba(form: Form) -> tuple[Tensor, Tensor]:
    """α = exp(step pole), key step times write; the skip is added."""
    mixer = drawn(SelectiveStateSpace)
    expected = []
    for channel in range(mixer.value.shape[-1]):
        step, value = mixer.step[0, :, channel, None], mixer.value[0, :, channel, None]
        decay = torch.exp(step * mixer.pole[channel])
        out = form(query=mixer.read[0], key=step * mixer.write[0], decay=decay, value=value)
        if mixer.feedthrough is not None:
            out = out + mixer.feedthrough[channel] * value
        expected.append(out)
    return response(mixer)[0].flatten(-3).mT, torch.cat(expected, dim=-1)


def s5(form: Form) -> tuple[Tensor, Tensor]:
    """Query and key 1, the value B x after a zero-order hold; C, real part and skip follow."""
    mixer = drawn(S5)
    decay = torch.exp(mixer.step * mixer.pole)
    gain = (decay - 1) / mixer.pole
    driven = mixer.value[0].to(gain.dtype) @ (gain[:, None] * mixer.write).mT
    expected = (_constant_decay(form, decay, driven) @ mixer.read.mT).real
    if mixer.feedthrough is not None:
        expected = expected + mixer.value[0] @ mixer.feedthrough.mT
    return response(mixer)[0].squeeze(-1), expected


def lru(form: Form) -> tuple[Tensor, Tensor]:
    """The same in discrete time; the input is scaled by sqrt(1 - |λ|²)."""
    mixer = drawn(LRU)
    decay = torch.exp(-torch.exp(mixer.log_radius) + 1j * torch.exp(mixer.log_phase))
    scale = (1 - decay.abs() ** 2) ** 0.5
    driven = mixer.value[0].to(decay.dtype) @ (scale[:, None] * mixer.write).mT
    expected = (_constant_decay(form, decay, driven) @ mixer.read.mT).real
    if mixer.feedthrough is not None:
        expected = expected + mixer.value[0] * mixer.feedthrough
    return response(mixer)[0].squeeze(-1), expected


def rwkv4(form: Form) -> tuple[Tensor, Tensor]:
    """Query 1, key exp(x), a fixed decay; what came before, a bonus and the denominator."""
    mixer = drawn(RWKV4)
    weight = torch.exp(mixer.key[0])
    own = torch.exp(mixer.bonus) * weight
    parts = []
    for value in (mixer.value[0], torch.ones_like(weight)):
        decay = torch.exp(mixer.log_decay).expand_as(weight)
        summed = _channels(form, decay, weight, value)
        before = torch.cat([torch.zeros_like(summed[:1]), summed[:-1]])
        parts.append(before + own * value)
    return response(mixer)[0].flatten(-3).mT, parts[0] / parts[1]


def hgrn(form: Form) -> tuple[Tensor, Tensor]:
    """Query 1, key 1 - α."""
    mixer = drawn(HGRN)
    decay = mixer.decay[0]
    expected = _channels(form, decay, 1 - decay, mixer.value[0])
    return response(mixer)[0].flatten(-3).mT, expected


def griffin(form: Form) -> tuple[Tensor, Tensor]:
    """Query 1, key sqrt(1 - α²), the value behind its gate; a reset counts as α = 0."""
    mixer = drawn(RGLRU)
    decay = mixer.decay[0]
    if mixer.reset is not None:
        decay = torch.where(mixer.reset[0, :, None], torch.zeros_like(decay), decay)
    gated = mixer.input_gate[0] * mixer.value[0]
    expected = _channels(form, decay, (1 - decay**2) ** 0.5, gated)
    return response(mixer)[0].flatten(-3).mT, expected


def _channels(form: Form, decay: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One head with one state for every channel, query 1."""
    heads = [
        form(
            query=torch.ones_like(key[:, [channel]]),
            key=key[:, [channel]],
            decay=decay[:, [channel]],
            value=value[:, [channel]],
        )
        for channel in range(value.shape[-1])
    ]
    return torch.cat(heads, dim=-1)


def _constant_decay(form: Form, decay: Tensor, value: Tensor) -> Tensor:
    """The same with key 1 and a decay that never changes."""
    return _channels(form, decay.expand_as(value), torch.ones_like(value), value)


FAMILIES: Mapping[str, Family] = {
    "Mamba": mamba,
    "S5": s5,
    "LRU": lru,
    "RWKV-4": rwkv4,
    "HGRN": hgrn,
    "Griffin": griffin,
}
