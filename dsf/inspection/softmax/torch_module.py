"""Reads ``torch.nn.MultiheadAttention``."""

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.nn.functional import linear

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.errors import InspectionError
from dsf.inspection.softmax import attention
from dsf.inspection.whole.stages import Chain, Project
from dsf.mixers import SoftmaxAttention


def read(layer: Captured) -> SoftmaxAttention:
    heads = layer.module.num_heads, -1
    query, key, value = (part.unflatten(-1, heads).transpose(1, 2) for part in _projected(layer))
    return attention.attention(
        query, key, value, _bias(layer, keys=key.shape[-2]), scale=query.shape[-1] ** -0.5
    )


def finish(
    layer: Captured, mixed: Shaped[Tensor, "*batch time output channel"]
) -> Shaped[Tensor, "*axes"]:
    """The response through the output projection, in the module's layout."""
    response = layer.project("out_proj", mixed.squeeze(-2).transpose(1, 2).flatten(-2))
    if layer.output.ndim == 2:
        return response.squeeze(0)
    return response if layer.module.batch_first else response.transpose(0, 1)


def enter(layer: Captured) -> Chain:
    module = layer.module
    extended = "bias_v" in layer.weights or module.add_zero_attn
    if layer.output.ndim == 2 or not module.batch_first or extended:
        raise InspectionError(
            f"{layer.name}: the whole layer is known only for batch_first=True, inputs of three "
            "axes, and without add_bias_kv and add_zero_attn. layer.map() gives the maps of its "
            "heads."
        )
    bias = layer.weights.get("in_proj_bias")
    return Chain((Project(_weights(layer)[2], None if bias is None else bias.chunk(3)[2]),))


def leave(layer: Captured, _: Tensor) -> Chain:
    return Chain((layer.projection("out_proj"),))


def _projected(layer: Captured) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, ``sample time model``, with the extra keys and values last."""
    given = [_batch_first(layer, layer.arguments[name]) for name in ("query", "key", "value")]
    bias = layer.weights.get("in_proj_bias")
    biases = (None, None, None) if bias is None else bias.chunk(3)
    weights = zip(given, _weights(layer), biases, strict=True)
    query, key, value = (linear(part, weight, bias) for part, weight, bias in weights)
    return query, _extended(layer, key, "bias_k"), _extended(layer, value, "bias_v")


def _weights(layer: Captured) -> tuple[Tensor, ...]:
    if "in_proj_weight" in layer.weights:
        return layer.weights["in_proj_weight"].chunk(3)
    return tuple(layer.weights[f"{name}_proj_weight"] for name in "qkv")


def _extended(layer: Captured, part: Tensor, bias: str) -> Tensor:
    if bias in layer.weights:
        extra = layer.weights[bias].expand(part.shape[0], -1, -1)
        part = torch.cat([part, extra], dim=1)
    if layer.module.add_zero_attn:
        part = torch.cat([part, torch.zeros_like(part[:, :1])], dim=1)
    return part


def _batch_first(layer: Captured, part: Tensor) -> Tensor:
    if part.ndim == 2:
        return part.unsqueeze(0)
    return part if layer.module.batch_first else part.transpose(0, 1)


def _bias(layer: Captured, *, keys: int) -> Tensor | None:
    """Both masks as a bias, ``#sample #head #time read``; boolean ones are true where they mask."""
    heads = layer.module.num_heads
    attention, padding = (layer.arguments.get(name) for name in ("attn_mask", "key_padding_mask"))
    parts = []
    if attention is not None:
        each = attention.ndim == 3  # one for every sample and head
        parts.append(_added(attention.unflatten(0, (-1, heads)) if each else attention[None, None]))
    if padding is not None:
        parts.append(_added(padding.reshape(-1, 1, 1, padding.shape[-1])))
    if not parts:
        return None
    bias: Tensor = sum(parts[1:], start=parts[0])
    return torch.nn.functional.pad(bias, (0, keys - bias.shape[-1]))


def _added(mask: Any) -> Tensor:
    return attention.as_bias(~mask if mask.dtype == torch.bool else mask)


ADAPTER = Adapter(
    families={"torch.nn.modules.activation.MultiheadAttention": "multihead"},
    read=read,
    finish=finish,
    enter=enter,
    leave=leave,
    takes="value",
)
