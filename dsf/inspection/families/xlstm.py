"""Reads the matrix LSTM of xlstm.

query = q / √d      gates = cap tanh(· / cap)      output = out_proj(σ(o) ⊙ (w LayerNorm(scan) + b))

The norm covers the channels of one head and subtracts their mean. Padding masks are ignored. The
state of a cache is an argument of the layer.
"""

from torch import Tensor

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.families.shared import by_head, some_rows
from dsf.inspection.whole.stages import Centre, Chain, Scale
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
        **_before(layer),
    )


def _before(layer: Captured) -> dict[str, Tensor]:
    """The state of the call, of earlier tokens; empty where there were none."""
    state = layer.arguments.get("state")
    if state is None or not any(part.any() for part in state):
        return {}
    memory, total, peak = state
    return {"start": memory, "start_total": total, "start_peak": peak.squeeze(-1)}


def enter(layer: Captured) -> Chain:
    """The projection of the values, less the mean over a head, which the later norm subtracts."""
    config = layer.module.config
    if config.weight_mode == "fused":
        keys, values = layer.module.qk_dim, layer.module.v_dim
        rows = slice(2 * keys, 2 * keys + values)
        project = some_rows(layer, "qkv_opreact", lambda whole: whole[..., rows])
    else:
        project = layer.projection("v")
    return Chain((project, Centre(config.num_heads)))


def leave(layer: Captured, response: Tensor) -> Chain:
    """The norm of every head, the output gate, then the output projection."""
    heads, norm = layer.module.config.num_heads, layer.module.multihead_norm
    spread = response.unflatten(-1, (heads, -1)).var(dim=-1, correction=0, keepdim=True)
    inverse = (spread + norm.eps).rsqrt().expand(*spread.shape[:-1], response.shape[-1] // heads)
    factor = layer.weights["multihead_norm.weight"] * inverse.flatten(-2)
    normalise = Scale(factor, layer.weights.get("multihead_norm.bias"))
    gate = Scale(_projected(layer)[3].sigmoid())
    return Chain((Centre(heads), normalise, gate, layer.projection("out_proj")))


def _projected(layer: Captured) -> tuple[Tensor, ...]:
    """Query, key, value and the output gate before its sigmoid."""
    x = layer.arguments["x"]
    if layer.module.config.weight_mode == "fused":
        keys, values = layer.module.qk_dim, layer.module.v_dim
        return layer.project("qkv_opreact", x).split([keys, keys, values, values], dim=-1)
    return tuple(layer.project(name, x) for name in ("q", "k", "v", "ogate_preact"))


def _gates(layer: Captured) -> tuple[Tensor, ...]:
    """Input and forget gate before their soft caps."""
    x = layer.arguments["x"]
    if layer.module.config.weight_mode == "fused":
        return layer.project("ifgate_preact", x).chunk(2, dim=-1)
    return tuple(layer.project(name, x) for name in ("igate_preact", "fgate_preact"))


ADAPTER = Adapter(
    families={"transformers.models.xlstm.modeling_xlstm.xLSTMLayer": "xlstm"},
    read=read,
    enter=enter,
    leave=leave,
    takes="x",
)
