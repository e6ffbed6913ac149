"""Reads the RG-LRU of recurrent_gemma, between a short convolution and an output gate.

value = conv(linear_x h) + b      r, input gate = σ(value W + c), block by block
log decay = -8 r softplus(recurrent_param)      output = linear_out(scan ⊙ act(linear_y h))

A token at position 0 starts a document and resets the state. The module ignores padding masks.

Elsewhere the parameters have other names, and the kernel of the convolution lies ``taps width``.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, softplus

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.families.shared import by_head, convolution, side_by_side
from dsf.inspection.families.structure import Settings, Sizes, Structure
from dsf.inspection.whole.stages import Chain, Filter, Scale
from dsf.mixers import RGLRU

SHARPNESS = 8.0
TAPS_AND_WIDTH = 2


def read(layer: Captured) -> RGLRU:
    """The recurrence this block ran."""
    x = enter(layer)(layer.arguments["input_states"])
    forgetting = softplus(layer.weights["rg_lru.recurrent_param"])
    log_decay = -SHARPNESS * _gate(layer, "recurrent_gate", x) * forgetting
    return RGLRU(
        value=x,
        decay=log_decay.exp(),
        input_gate=_gate(layer, "input_gate", x),
        reset=_reset(layer, x),
    )


def enter(layer: Captured) -> Chain:
    """Projection and convolution."""
    return Chain((layer.projection("linear_x"), _convolution(layer)))


def _convolution(layer: Captured) -> Filter:
    if layer.weights["conv_1d.weight"].ndim > TAPS_AND_WIDTH:
        return convolution(layer, "conv_1d")
    return Filter(layer.weights["conv_1d.weight"].mT, layer.weights["conv_1d.bias"])


def _reset(layer: Captured, x: Tensor) -> Tensor | None:
    """Where a document starts; at the first token, or nowhere, where no positions are given."""
    first = getattr(layer.module, "first_position", "position_ids")
    if first in layer.arguments:
        return (layer.arguments[first] == 0).expand(x.shape[:-1])
    if not layer.module.resets:
        return None
    return (torch.arange(x.shape[1], device=x.device) == 0).expand(x.shape[:-1])


def leave(layer: Captured, _: Tensor) -> Chain:
    """The output gate, then the output projection."""
    act = getattr(layer.module, "act_fn", None) or partial(gelu, approximate="tanh")
    gate = act(layer.project("linear_y", layer.arguments["input_states"]))
    return Chain((Scale(gate), layer.projection("linear_out")))


def _gate(layer: Captured, name: str, x: Tensor) -> Tensor:
    weight, bias = (layer.weights[f"rg_lru.{name}_{part}"] for part in ("weight", "bias"))
    blocks = by_head(x, weight.shape[0])
    return side_by_side((blocks @ weight + bias.unsqueeze(-2)).sigmoid())


ADAPTER = Adapter(
    families={
        "transformers.models.recurrent_gemma.modeling_recurrent_gemma"
        ".RecurrentGemmaRecurrentBlock": "recurrent_gemma"
    },
    read=read,
    enter=enter,
    leave=leave,
    takes="input_states",
    axes=("sample", "channel"),
)


def _settings(_module: Any, _sizes: Sizes) -> Iterator[Settings]:
    for resets in (True, False):
        yield {"resets": resets, "first_position": "segment_pos"}


STRUCTURE = Structure(
    title="the recurrent block of Griffin",
    family="recurrent_gemma",
    adapter=ADAPTER,
    parameters={
        "linear_x.weight": "inner model",
        "linear_y.weight": "inner model",
        "linear_out.weight": "model inner",
        "conv_1d.weight": "taps inner",
        "conv_1d.bias": "inner",
        "rg_lru.recurrent_param": "inner",
        "rg_lru.input_gate_weight": "blocks size size",
        "rg_lru.input_gate_bias": "blocks size",
        "rg_lru.recurrent_gate_weight": "blocks size size",
        "rg_lru.recurrent_gate_bias": "blocks size",
    },
    settings=_settings,
    called={
        "conv_1d.weight": ("conv_1d.w",),
        "conv_1d.bias": ("conv_1d.b",),
        "rg_lru.recurrent_param": ("rg_lru.a_param",),
        "rg_lru.input_gate_weight": ("rg_lru.input_gate.w", "rg_lru.input_gate.weight"),
        "rg_lru.input_gate_bias": ("rg_lru.input_gate.b", "rg_lru.input_gate.bias"),
        "rg_lru.recurrent_gate_weight": ("rg_lru.a_gate.w", "rg_lru.a_gate.weight"),
        "rg_lru.recurrent_gate_bias": ("rg_lru.a_gate.b", "rg_lru.a_gate.bias"),
    },
)
