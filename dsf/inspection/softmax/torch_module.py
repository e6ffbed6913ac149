"""Reads ``torch.nn.MultiheadAttention``."""

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn import functional

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.capture.modes import Functions
from dsf.inspection.capture.weights import double_copy
from dsf.inspection.errors import InspectionError
from dsf.inspection.softmax import attention
from dsf.inspection.softmax.follower import POSITIONAL, opened
from dsf.inspection.whole.stages import Chain, Project
from dsf.mixers import SoftmaxAttention


class _Fused(Functions):
    """Keeps what torch's fused attention is called with."""

    def hears(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is functional.multi_head_attention_forward:
            with self:
                return opened(func)(*args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            self.given = dict(zip(POSITIONAL, args, strict=False)) | kwargs
        return func(*args, **kwargs)


def read(layer: Captured) -> SoftmaxAttention:
    """The mixer, of what the module's own code in float64 asks fused attention for."""
    module: Any = double_copy(layer.module)
    heard, plainly = _Fused(), {"need_weights": False, "is_causal": False}
    with torch.no_grad(), heard:
        nn.MultiheadAttention.forward(module, **{**layer.arguments, **plainly})
    query, key, value, mask = (heard.given[name] for name in POSITIONAL[:4])
    bias = None if mask is None else attention.as_bias(mask)
    return attention.attention(query, key, value, bias, scale=query.shape[-1] ** -0.5)


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
    weights, bias = layer.weights, layer.weights.get("in_proj_bias")
    is_one = "in_proj_weight" in weights
    weight = weights["in_proj_weight"].chunk(3)[2] if is_one else weights["v_proj_weight"]
    return Chain((Project(weight, None if bias is None else bias.chunk(3)[2]),))


ADAPTER = Adapter(
    families={"torch.nn.modules.activation.MultiheadAttention": "multihead"},
    read=read,
    finish=finish,
    enter=enter,
    leave=lambda layer, _: Chain((layer.projection("out_proj"),)),
    takes="value",
)
