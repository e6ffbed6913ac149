"""The matrix LSTM of xlstm.

query = q / √d      gates = cap tanh(· / cap)      output = out_proj(σ(o) ⊙ (w LayerNorm(scan) + b))

The norm covers the channels of one head, mean removed. Padding is ignored.
"""

from torch import Tensor
from torch.nn.functional import layer_norm

from dsf.inspection.adapter import Adapter
from dsf.inspection.captured import Captured
from dsf.inspection.pieces import by_head, side_by_side
from dsf.mixers import MLSTM


def read(layer: Captured) -> MLSTM:
    """The scan this layer ran."""
    config = layer.module.config
    query, key, value = (by_head(part, config.num_heads) for part in _projected(layer)[:3])
    cap = config.gate_soft_cap
    input_gate, forget_gate = (cap * (part / cap).tanh() for part in _gates(layer))
    return MLSTM(
        query=query * query.shape[-1] ** -0.5,
        key=key,
        value=value,
        input_gate=input_gate.mT,
        forget_gate=forget_gate.mT,
        epsilon=config.eps,
    )


def finish(layer: Captured, mixed: Tensor) -> Tensor:
    """Normalise every head, then gate, then project."""
    response, norm = mixed.squeeze(-2), layer.module.multihead_norm
    response = side_by_side(layer_norm(response, response.shape[-1:], eps=norm.eps))
    response = response * layer.weights["multihead_norm.weight"]
    response = response + layer.weights.get("multihead_norm.bias", 0)
    return layer.project("out_proj", _projected(layer)[3].sigmoid() * response)


def _projected(layer: Captured) -> tuple[Tensor, ...]:
    """Query, key, value and the output gate before its sigmoid."""
    x = layer.arguments["x"]
    if layer.module.config.weight_mode == "fused":
        keys, values = layer.module.qk_dim, layer.module.v_dim
        return layer.project("qkv_opreact", x).split([keys, keys, values, values], dim=-1)
    return tuple(layer.project(name, x) for name in ("q", "k", "v", "ogate_preact"))


def _gates(layer: Captured) -> tuple[Tensor, ...]:
    """Input and forget gate before their caps."""
    x = layer.arguments["x"]
    if layer.module.config.weight_mode == "fused":
        return layer.project("ifgate_preact", x).chunk(2, dim=-1)
    return tuple(layer.project(name, x) for name in ("igate_preact", "fgate_preact"))


ADAPTER = Adapter(
    families={"transformers.models.xlstm.modeling_xlstm.xLSTMLayer": "xlstm"},
    read=read,
    finish=finish,
)
