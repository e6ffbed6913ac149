"""Reads the RG-LRU of recurrent_gemma, between a short convolution and an output gate.

value = conv(linear_x h) + b      r, input gate = σ(value W + c), block by block
log decay = -8 r softplus(recurrent_param)      output = linear_out(scan ⊙ act(linear_y h))

A token at position 0 starts a document and resets the state. The module ignores padding masks.
"""

from torch import Tensor
from torch.nn.functional import softplus

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.families.shared import by_head, convolution, side_by_side
from dsf.inspection.whole.stages import Chain, Scale
from dsf.mixers import RGLRU

SHARPNESS = 8.0


def read(layer: Captured) -> RGLRU:
    """The recurrence this block ran."""
    x = enter(layer)(layer.arguments["input_states"])
    forgetting = softplus(layer.weights["rg_lru.recurrent_param"])
    log_decay = -SHARPNESS * _gate(layer, "recurrent_gate", x) * forgetting
    return RGLRU(
        value=x,
        decay=log_decay.exp(),
        input_gate=_gate(layer, "input_gate", x),
        reset=(layer.arguments["position_ids"] == 0).expand(x.shape[:-1]),
    )


def enter(layer: Captured) -> Chain:
    """Projection and convolution."""
    return Chain((layer.projection("linear_x"), convolution(layer, "conv_1d")))


def leave(layer: Captured, _: Tensor) -> Chain:
    """The output gate, then the output projection."""
    gate = layer.module.act_fn(layer.project("linear_y", layer.arguments["input_states"]))
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
