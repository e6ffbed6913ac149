"""Families with one state of keys by values: linear attention, its decays, MetaLA, S4D."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dsf.claims.meta_linear.family import Family, Form, drawn, response
from dsf.mixers import (
    DiagonalStateSpace,
    GatedLinearAttention,
    LinearAttention,
    MetaLinearAttention,
    Retention,
)
from dsf.mixers.ingredients.feature_maps import elu_plus_one
from dsf.mixers.ingredients.state_spaces import bilinear, zero_order_hold


def linear_transformer(form: Form) -> tuple[Tensor, Tensor]:
    """No decay; a second state holds the denominator."""
    mixer = drawn(LinearAttention)
    query, key = _elu_plus_one(mixer.query[0]), _elu_plus_one(mixer.key[0])
    one, value = torch.ones_like(key), mixer.value[0]
    above = form(query=query, key=key, decay=one, value=value)
    below = form(query=query, key=key, decay=one, value=torch.ones_like(value))
    return response(mixer)[0].squeeze(-2), above / below


def retention(form: Form) -> tuple[Tensor, Tensor]:
    """RetNet: a decay λ exp(iθ) that never changes."""
    return _turning(form, drawn(Retention))


def trans_normer(form: Form) -> tuple[Tensor, Tensor]:
    """The same with features of queries and keys."""
    mixer = drawn(Retention)
    features = replace(mixer, query=elu_plus_one(mixer.query), key=elu_plus_one(mixer.key))
    return _turning(form, features)


def gated_linear_attention(form: Form) -> tuple[Tensor, Tensor]:
    """A decay sig(x)^{1/16} of every coordinate."""
    mixer = drawn(GatedLinearAttention)
    logit = 4 * mixer.log_decay
    mixer = replace(mixer, log_decay=logsigmoid(logit) / 16)
    decay = (1 / (1 + torch.exp(-logit[0]))) ** (1 / 16)
    expected = form(query=mixer.query[0], key=mixer.key[0], decay=decay, value=mixer.value[0])
    return response(mixer)[0].squeeze(-2), expected


def meta_linear_attention(form: Form) -> tuple[Tensor, Tensor]:
    """The key is 1 - α; the augmentation without its sigmoid is added."""
    mixer = drawn(MetaLinearAttention)
    query, decay, value = mixer.query[0], mixer.decay[0], mixer.value[0]
    expected = form(query=query, key=1 - decay, decay=decay, value=value)
    if mixer.augmentation is not None:
        own = (query * mixer.augmentation * (1 - decay)).sum(dim=-1, keepdim=True)
        expected = expected + own * value
    return response(mixer)[0].squeeze(-2), expected


def held_input(form: Form) -> tuple[Tensor, Tensor]:
    """DSS and S4D: exp(step pole), (exp(step pole) - 1) / pole; real part and skip are added."""
    mixer = replace(drawn(DiagonalStateSpace), discretise=zero_order_hold)
    decay = torch.exp(mixer.step[0] * mixer.pole[0])
    return _invariant(form, mixer, decay, (decay - 1) / mixer.pole[0])


def trapezoid(form: Form) -> tuple[Tensor, Tensor]:
    """S4D by the bilinear rule."""
    mixer = replace(drawn(DiagonalStateSpace), discretise=bilinear)
    half = mixer.step[0] * mixer.pole[0] / 2
    return _invariant(form, mixer, (1 + half) / (1 - half), mixer.step[0] / (1 - half))


def _elu_plus_one(x: Tensor) -> Tensor:
    return torch.where(x > 0, x + 1, x.exp())


def _turning(form: Form, mixer: Retention) -> tuple[Tensor, Tensor]:
    turned = replace(mixer, decay=torch.polar(mixer.decay, torch.full_like(mixer.decay, 0.3)))
    query, key, value = mixer.query[0], mixer.key[0], mixer.value[0]
    decay = turned.decay[0].expand(key.shape)
    expected = form(query=query, key=key, decay=decay, value=value)
    return response(turned)[0].squeeze(-2), expected


def _invariant(
    form: Form, mixer: DiagonalStateSpace, decay: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor]:
    steps = mixer.value.shape[-2]
    read, write = 2 * mixer.read[0], gain * mixer.write[0]
    query, key, decays = (part.expand(steps, -1) for part in (read, write, decay))
    expected = form(query=query, key=key, decay=decays, value=mixer.value[0]).real
    if mixer.feedthrough is not None:
        expected = expected + mixer.feedthrough[0] * mixer.value[0]
    return response(mixer)[0].squeeze(-2), expected


FAMILIES: Mapping[str, Family] = {
    "linear Transformer": linear_transformer,
    "RetNet": retention,
    "TransNormer": trans_normer,
    "GLA": gated_linear_attention,
    "MetaLA": meta_linear_attention,
    "S4D, input held": held_input,
    "S4D, bilinear": trapezoid,
}
