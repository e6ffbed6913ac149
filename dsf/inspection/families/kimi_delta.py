"""Reads Kimi delta attention: kimi_linear, bailing_hybrid, glm5_next.

[q|k|v] = act(conv ·)      query = q / |q| / √d      key = k / |k|      rate = σ(b)
log decay = -exp(A_log) softplus(f + dt_bias), or bound · σ(exp(A_log) (f + dt_bias))
output = o_proj(w ⊙ RMS(scan) ⊙ act(gate))

The norm covers the channels of one head; its gate is a sigmoid.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.families.shared import (
    activation,
    by_head,
    convolution,
    epsilon_of,
    masked,
    masking,
    rms_factor,
    state_before,
    unit_length,
)
from dsf.inspection.whole.stages import Chain, Scale, secant
from dsf.mixers import KimiDeltaAttention


def read(layer: Captured) -> KimiDeltaAttention:
    """The delta rule this layer ran."""
    module, hidden = layer.module, masked(layer, layer.arguments["hidden_states"])
    qkv = torch.cat([layer.project(f"{part}_proj", hidden) for part in "qkv"], dim=-1)
    qkv = activation(layer)(convolution(layer, "conv1d")(qkv))
    query, key, value = (by_head(part, module.num_heads) for part in qkv.chunk(3, dim=-1))
    return KimiDeltaAttention(
        query=unit_length(query) * module.head_dim**-0.5,
        key=unit_length(key),
        value=value,
        rate=layer.project("b_proj", hidden).sigmoid().mT,
        log_decay=_log_decay(layer, hidden),
        initial=state_before(layer),
    )


def enter(layer: Captured) -> Chain:
    """Projection, convolution and activation of the values; padding is set to zero before."""
    hidden, rows = layer.arguments["hidden_states"], layer.projection("v_proj")
    values = slice(-rows.weight.shape[0], None)
    linear = Chain((*masking(layer, hidden), rows, convolution(layer, "conv1d", values)))
    return Chain((*linear, Scale(secant(activation(layer), linear(hidden)))))


def leave(layer: Captured, response: Tensor) -> Chain:
    """The norm of every head, the output gate, then the output projection."""
    heads = response.unflatten(-1, (layer.module.num_heads, -1))
    factor = rms_factor(heads, epsilon=epsilon_of(layer.module.o_norm))
    factor = (layer.weights["o_norm.weight"] * factor).flatten(-2)
    gate = _in_one_or_two(layer, "g", masked(layer, layer.arguments["hidden_states"]))
    return Chain((Scale(factor * activation(layer, "o_norm")(gate)), layer.projection("o_proj")))


def _log_decay(layer: Captured, hidden: Tensor) -> Tensor:
    raw = _in_one_or_two(layer, "forget_gate.f", hidden) + layer.weights["forget_gate.dt_bias"]
    raw = by_head(raw, layer.module.num_heads)
    speed = layer.weights["forget_gate.A_log"].exp().view(-1, 1, 1)
    bound = _lower_bound(layer)
    return -speed * softplus(raw) if bound is None else bound * (speed * raw).sigmoid()


def _lower_bound(layer: Captured) -> float | None:
    """The lower bound of the log decay, in nats per token; None without one."""
    gate = layer.module.forget_gate
    if layer.family == "bailing_hybrid":
        return gate.lower_bound if gate.safe_gate else None
    return getattr(gate, "safe_gate_lower_bound", None)


def _in_one_or_two(layer: Captured, name: str, hidden: Tensor) -> Tensor:
    """``hidden`` through the projection ``name``, or through its two low-rank factors."""
    if f"{name}_proj.weight" in layer.weights:
        return layer.project(f"{name}_proj", hidden)
    return layer.project(f"{name}_b_proj", layer.project(f"{name}_a_proj", hidden))


ADAPTER = Adapter(
    families={
        f"transformers.models.{family}.modeling_{family}.{cls}": family
        for family, cls in (
            ("kimi_linear", "KimiLinearDeltaAttention"),
            ("bailing_hybrid", "BailingHybridDeltaAttention"),
            ("glm5_next", "Glm5NextTextLinearAttention"),
        )
    },
    read=read,
    enter=enter,
    leave=leave,
)
