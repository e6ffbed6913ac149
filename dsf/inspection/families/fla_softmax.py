"""Reads softmax attention of the ``fla`` package with decays or positions that depend on the data.

forgetting_attn: scores = q · k / √d + Σ log σ(f)
path_attn: scores = (q Π(I - rate w wᵀ) k + Σ log σ(g)) / √d, w of unit length, rate = 2 σ(bt)
output = o_proj(σ(gate) ⊙ response), the gate in forgetting_attn if set

Source: flash-linear-attention 0.6.0, ``fla/layers/{forgetting_attn,path_attn}.py``.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.families.fla_shared import TOLERANCE, given, hidden, put_out, through
from dsf.inspection.families.shared import (
    ACTIVATIONS,
    by_head,
    convolution,
    epsilon_of,
    masking,
    rms_normalised,
    unit_length,
)
from dsf.inspection.whole.stages import Chain, Project, Scale
from dsf.mixers import ForgettingAttention, PathAttention

NORMS = {"forgetting_attn": "{}_norm", "path_attn": "maybe_{}_norm"}


def read(layer: Captured) -> ForgettingAttention | PathAttention:
    """The attention, according to the family of the layer."""
    x, value = hidden(layer), _shared(layer, layer.project("v_proj", hidden(layer)))
    query, key = _normalised(layer, "q"), _normalised(layer, "k")
    if layer.family == "forgetting_attn":
        log_decay = _cut_off(layer, logsigmoid(layer.project("f_proj", x))).mT
        return ForgettingAttention(query=query, key=key, value=value, log_decay=log_decay)
    direction = through(layer, "w_proj", x)
    if layer.module.use_w_shortconv:
        direction = ACTIVATIONS["silu"](convolution(layer, "w_conv1d")(direction))
    rate = 2 * layer.project("bt_proj", x).sigmoid()
    faded = layer.module.use_forget_gate
    return PathAttention(
        query=query,
        key=key,
        value=value,
        direction=unit_length(_shared(layer, direction)),
        rate=_shared(layer, rate).squeeze(-1),
        log_decay=logsigmoid(layer.project("g_proj", x)).mT if faded else None,
    )


def enter(layer: Captured) -> Chain:
    """The value projection; grouped heads are repeated."""
    rows = layer.projection("v_proj")
    weight = _repeated(layer, rows.weight)
    bias = None if rows.bias is None else _repeated(layer, rows.bias)
    return Chain((*masking(layer, given(layer)), Project(weight, bias)))


def leave(layer: Captured, response: Tensor) -> Chain:
    """The output gate if any, then the output projection."""
    if not getattr(layer.module, "use_output_gate", False):
        return Chain(put_out(layer, response))
    gate = layer.project("g_proj", hidden(layer)).sigmoid()
    return Chain((Scale(gate), *put_out(layer, response)))


def _cut_off(layer: Captured, log_decay: Tensor) -> Tensor:
    """``log_decay`` where the first token behind padding reads nothing before it."""
    for mask in masking(layer, log_decay):
        seen = mask.factor.bool()
        first = seen & ~pad(seen, (0, 0, 1, -1), value=True)
        log_decay = log_decay.masked_fill(first, -torch.inf)
    return log_decay


def _normalised(layer: Captured, part: str) -> Tensor:
    """Queries or keys in heads, each head through its norm if any."""
    x = _shared(layer, layer.project(f"{part}_proj", hidden(layer)), is_shared=part != "q")
    norm = NORMS[layer.family].format(part)
    if f"{norm}.weight" not in layer.weights:
        return x
    weight = layer.weights[f"{norm}.weight"]
    if len(weight) > x.shape[-1]:  # the norm of a group for every head
        weight = _shared(layer, weight.expand(1, 1, -1), is_shared=part != "q")
    return weight * rms_normalised(x, epsilon=epsilon_of(layer.module.get_submodule(norm)))


def _shared(layer: Captured, x: Tensor, *, is_shared: bool = True) -> Tensor:
    """``x`` in heads, each repeated for the query heads that read it."""
    heads = layer.module.num_heads
    own = by_head(x, layer.module.num_kv_heads if is_shared else heads)
    return own.repeat_interleave(heads // own.shape[1], dim=1)


def _repeated(layer: Captured, rows: Tensor) -> Tensor:
    own, heads = layer.module.num_kv_heads, layer.module.num_heads
    return rows.unflatten(0, (own, -1)).repeat_interleave(heads // own, dim=0).flatten(0, 1)


ADAPTER = Adapter(
    families={
        "fla.layers.forgetting_attn.ForgettingAttention": "forgetting_attn",
        "fla.layers.path_attn.PaTHAttention": "path_attn",
    },
    read=read,
    enter=enter,
    leave=leave,
    tolerance=TOLERANCE,
)
