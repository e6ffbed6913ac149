"""Every model of the paper's table as a choice of query, key, decay and value.

Each family pairs the response of a mixer of the library with the same numbers put into the unified
form. What the form drops (denominators, a bonus, a skip, the scale of an input) is added by the
family and named in its docstring.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dsf import mixers
from dsf.mixers import ingredients
from papers.drawn import output

Form = Callable[..., Tensor]
"""S_t = diag(α_t) S_{t-1} + k_tᵀ v_t and o_t = q_t S_t over one sequence.

Takes ``query``, ``key`` and ``decay``, each ``time key``, and ``value``, ``time channel``, by name;
gives what every token reads, ``time channel``.
"""
Family = Callable[[Form], tuple[Tensor, Tensor]]
"""From the form to (the mixer's response, the form's with the family's extra terms)."""


def drawn(mixer: type[mixers.Mixer]) -> mixers.Mixer:
    return mixer.draw(torch.Generator().manual_seed(0), steps=7)


def linear_transformer(form: Form) -> tuple[Tensor, Tensor]:
    """No decay; a second state holds the denominator."""
    mixer = drawn(mixers.LinearAttention)
    query, key = (torch.where(x > 0, x + 1, x.exp()) for x in (mixer.query[0], mixer.key[0]))
    one, value = torch.ones_like(key), mixer.value[0]
    above = form(query=query, key=key, decay=one, value=value)
    below = form(query=query, key=key, decay=one, value=torch.ones_like(value))
    return output(mixer)[0].squeeze(-2), above / below


def retention(form: Form) -> tuple[Tensor, Tensor]:
    """RetNet, and TransNormer but for its features: a decay λ exp(iθ) that never changes."""
    mixer = drawn(mixers.Retention)
    mixer = replace(mixer, decay=torch.polar(mixer.decay, torch.full_like(mixer.decay, 0.3)))
    query, key, value = mixer.query[0], mixer.key[0], mixer.value[0]
    expected = form(query=query, key=key, decay=mixer.decay[0].expand(key.shape), value=value)
    return output(mixer)[0].squeeze(-2), expected


def gated_linear_attention(form: Form) -> tuple[Tensor, Tensor]:
    """A decay sig(x)^{1/16} of every coordinate."""
    mixer = drawn(mixers.GatedLinearAttention)
    logit = 4 * mixer.log_decay
    mixer = replace(mixer, log_decay=logsigmoid(logit) / 16)
    decay = (1 / (1 + torch.exp(-logit[0]))) ** (1 / 16)
    expected = form(query=mixer.query[0], key=mixer.key[0], decay=decay, value=mixer.value[0])
    return output(mixer)[0].squeeze(-2), expected


def meta_linear_attention(form: Form) -> tuple[Tensor, Tensor]:
    """The key is 1 - α; the augmentation without its sigmoid is added."""
    mixer = drawn(mixers.MetaLinearAttention)
    query, decay, value = mixer.query[0], mixer.decay[0], mixer.value[0]
    expected = form(query=query, key=1 - decay, decay=decay, value=value)
    if mixer.augmentation is not None:
        own = (query * mixer.augmentation * (1 - decay)).sum(dim=-1, keepdim=True)
        expected = expected + own * value
    return output(mixer)[0].squeeze(-2), expected


def held_input(form: Form) -> tuple[Tensor, Tensor]:
    """DSS and S4D: exp(step pole), (exp(step pole) - 1) / pole; real part and skip are added."""
    mixer = drawn(mixers.DiagonalStateSpace)
    mixer = replace(mixer, discretise=ingredients.zero_order_hold)
    decay = torch.exp(mixer.step[0] * mixer.pole[0])
    return _invariant(form, mixer, decay, (decay - 1) / mixer.pole[0])


def _invariant(
    form: Form, mixer: mixers.DiagonalStateSpace, decay: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor]:
    steps = mixer.value.shape[-2]
    read, write = 2 * mixer.read[0], gain * mixer.write[0]
    query, key, decays = (part.expand(steps, -1) for part in (read, write, decay))
    expected = form(query=query, key=key, decay=decays, value=mixer.value[0]).real
    if mixer.feedthrough is not None:
        expected = expected + mixer.feedthrough[0] * mixer.value[0]
    return output(mixer)[0].squeeze(-2), expected


def mamba(form: Form) -> tuple[Tensor, Tensor]:
    """α = exp(step pole), key step times write; the skip is added."""
    mixer = drawn(mixers.SelectiveStateSpace)
    expected = []
    for channel in range(mixer.value.shape[-1]):
        step, value = mixer.step[0, :, channel, None], mixer.value[0, :, channel, None]
        decay = torch.exp(step * mixer.pole[channel])
        read = form(query=mixer.read[0], key=step * mixer.write[0], decay=decay, value=value)
        skip = 0 if mixer.feedthrough is None else mixer.feedthrough[channel]
        expected.append(read + skip * value)
    return output(mixer)[0].flatten(-3).mT, torch.cat(expected, dim=-1)


def s5(form: Form) -> tuple[Tensor, Tensor]:
    """Query and key 1, the value B x after a zero-order hold; C, real part and skip follow."""
    mixer = drawn(mixers.S5)
    decay = torch.exp(mixer.step * mixer.pole)
    gain = (decay - 1) / mixer.pole
    driven = mixer.value[0].to(gain.dtype) @ (gain[:, None] * mixer.write).mT
    expected = (_constant_decay(form, decay, driven) @ mixer.read.mT).real
    if mixer.feedthrough is not None:
        expected = expected + mixer.value[0] @ mixer.feedthrough.mT
    return output(mixer)[0].squeeze(-1), expected


def lru(form: Form) -> tuple[Tensor, Tensor]:
    """The same in discrete time; the input is scaled by sqrt(1 - |λ|²)."""
    mixer = drawn(mixers.LRU)
    decay = torch.exp(-torch.exp(mixer.log_radius) + 1j * torch.exp(mixer.log_phase))
    scale = (1 - decay.abs() ** 2) ** 0.5
    driven = mixer.value[0].to(decay.dtype) @ (scale[:, None] * mixer.write).mT
    expected = (_constant_decay(form, decay, driven) @ mixer.read.mT).real
    if mixer.feedthrough is not None:
        expected = expected + mixer.value[0] * mixer.feedthrough
    return output(mixer)[0].squeeze(-1), expected


def rwkv4(form: Form) -> tuple[Tensor, Tensor]:
    """Query 1, key exp(x), a fixed decay; what came before, a bonus and the denominator."""
    mixer = drawn(mixers.RWKV4)
    weight = torch.exp(mixer.key[0])
    own, decay = torch.exp(mixer.bonus) * weight, torch.exp(mixer.log_decay).expand_as(weight)
    parts = []
    for value in (mixer.value[0], torch.ones_like(weight)):
        summed = _channels(form, decay, weight, value)
        before = torch.cat([torch.zeros_like(summed[:1]), summed[:-1]])
        parts.append(before + own * value)
    return output(mixer)[0].flatten(-3).mT, parts[0] / parts[1]


def hgrn(form: Form) -> tuple[Tensor, Tensor]:
    """Query 1, key 1 - α."""
    mixer = drawn(mixers.HGRN)
    decay = mixer.decay[0]
    expected = _channels(form, decay, 1 - decay, mixer.value[0])
    return output(mixer)[0].flatten(-3).mT, expected


def griffin(form: Form) -> tuple[Tensor, Tensor]:
    """Query 1, key sqrt(1 - α²), the value behind its gate; a reset counts as α = 0."""
    mixer = drawn(mixers.RGLRU)
    decay = mixer.decay[0]
    if mixer.reset is not None:
        decay = torch.where(mixer.reset[0, :, None], torch.zeros_like(decay), decay)
    gated = mixer.input_gate[0] * mixer.value[0]
    expected = _channels(form, decay, (1 - decay**2) ** 0.5, gated)
    return output(mixer)[0].flatten(-3).mT, expected


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


FAMILIES: dict[str, Family] = {
    "linear Transformer": linear_transformer,
    "RetNet": retention,
    "GLA": gated_linear_attention,
    "MetaLA": meta_linear_attention,
    "S4D, input held": held_input,
    "Mamba": mamba,
    "S5": s5,
    "LRU": lru,
    "RWKV-4": rwkv4,
    "HGRN": hgrn,
    "Griffin": griffin,
}
