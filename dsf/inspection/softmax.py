"""Softmax attention of any family that goes through the attention interface.

Order of operations: scale q.k, soft cap, position bias, mask, sink, softmax.
"""

import torch
from torch import Tensor

from dsf.inspection.adapter import Adapter
from dsf.inspection.captured import Captured
from dsf.mixers import SoftmaxAttention


def read(layer: Captured) -> SoftmaxAttention:
    """Query, key and value as the interface got them; key and value heads repeated in blocks."""
    query, key, value = (layer.arguments[name] for name in ("query", "key", "value"))
    heads = query.shape[1]
    bias = _bias(layer, (*query.shape[:-1], key.shape[-2]))
    causal = bias is not None and _is_causal(bias)
    plain = causal and bool((bias.masked_fill(_above(bias), 0) == 0).all())
    scale = layer.arguments.get("scaling")
    return SoftmaxAttention(
        query=query,
        key=_repeated(key, heads),
        value=_repeated(value, heads),
        scale=float(scale) if scale is not None else query.shape[-1] ** -0.5,
        bias=None if plain else bias,
        causal=causal,
        softcap=layer.arguments.get("softcap"),
        sink=_sink(layer, query),
    )


def finish(layer: Captured, mixed: Tensor) -> Tensor:
    """The interface's output: ``sample time head channel``.

    A query that sees no key gets a uniform row from the library and an empty one from us; such
    rows belong to padding and are taken over.
    """
    response = mixed.squeeze(-2).transpose(1, 2)
    bias = _bias(layer, (*response.shape[:1], response.shape[2], response.shape[1], 1))
    if bias is None:
        return response
    blind = (bias == -torch.inf).all(dim=-1).transpose(1, 2).unsqueeze(-1)
    return torch.where(blind, layer.output, response)


def _bias(layer: Captured, shape: tuple[int, ...]) -> Tensor | None:
    """Position bias plus mask, ``-inf`` where the mask hides a key."""
    total = None
    for name in ("position_bias", "attention_mask"):
        part = layer.arguments.get(name)
        if part is None:
            continue
        if part.dtype == torch.bool:
            part = torch.zeros_like(part, dtype=torch.float64).masked_fill(~part, -torch.inf)
        hidden = part <= torch.finfo(torch.float16).min
        part = part.masked_fill(hidden, -torch.inf)
        total = part if total is None else total + part
    if total is None:
        return None
    return total.expand(*shape[:-1], total.shape[-1])


def _above(bias: Tensor) -> Tensor:
    ones = torch.ones(bias.shape[-2:], dtype=torch.bool, device=bias.device)
    return ones.triu(1)


def _is_causal(bias: Tensor) -> bool:
    square = bias.shape[-1] == bias.shape[-2]
    return square and bool((bias[..., _above(bias)] == -torch.inf).all())


def _repeated(part: Tensor, heads: int) -> Tensor:
    """Query head h reads key/value head h // (heads per group)."""
    return part.repeat_interleave(heads // part.shape[1], dim=1)


def _sink(layer: Captured, query: Tensor) -> Tensor | None:
    sink = layer.arguments.get("s_aux")
    if sink is None:
        return None
    return sink.to(torch.float64).reshape(1, -1).expand(query.shape[0], query.shape[1])


ADAPTER = Adapter(families={}, read=read, finish=finish, axes=("sample", "head"))
