"""Reads lightning attention of minimax: retention with one constant decay for every head.

[q|k|v] = act(qkv_proj h), head by head      decay = exp(-slope_rate)
output = out_proj(σ(output_gate h) ⊙ w ⊙ RMS(scan))

The norm covers all heads at once. Padding is set to zero after the activation; older releases
do so for the values only, which changes the output of padding tokens alone.
"""

import sys
from typing import Any

from torch import Tensor

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.families.shared import (
    by_head,
    epsilon_of,
    masked,
    masking,
    rms_factor,
    some_rows,
    state_before,
)
from dsf.inspection.whole.stages import Chain, Scale, secant
from dsf.mixers import Retention


def read(layer: Captured) -> Retention:
    """The retention this layer applied."""
    qkv = layer.module.act_fn(layer.project("qkv_proj", layer.arguments["hidden_states"]))
    slope, kept = layer.weights["slope_rate"].flatten(), masked(layer, qkv)
    query, key, _ = by_head(kept if _zeroes_whole_tokens(layer) else qkv, len(slope)).chunk(3, -1)
    value = by_head(kept, len(slope)).chunk(3, dim=-1)[2]
    decay = (-slope).exp().expand(query.shape[:-2])
    return Retention(
        query=query,
        key=key,
        value=value,
        decay=decay,
        initial=state_before(layer, "get_linear_cache"),
    )


def enter(layer: Captured) -> Chain:
    """Projection and activation of the values; padding is set to zero after."""
    hidden, heads = layer.arguments["hidden_states"], layer.weights["slope_rate"].numel()

    def values(qkv: Tensor) -> Tensor:
        return qkv.unflatten(-1, (heads, 3, -1))[..., 2, :].flatten(-2)

    project = some_rows(layer, "qkv_proj", values)
    factor = secant(layer.module.act_fn, project(hidden))
    return Chain((project, Scale(factor), *masking(layer, hidden)))


def leave(layer: Captured, response: Tensor) -> Chain:
    """The norm over all heads, the output gate, then the output projection."""
    factor = rms_factor(response, epsilon=epsilon_of(layer.module.norm))
    gate = layer.project("output_gate", layer.arguments["hidden_states"]).sigmoid()
    return Chain(
        (Scale(gate * layer.weights["norm.weight"] * factor), layer.projection("out_proj"))
    )


def renew(module: Any) -> None:
    """Compute the decays between tokens of a block, which the module keeps, from its slopes."""
    decays = module.decay_factors(module.slope_rate)
    module.query_decay, module.key_decay, module.diagonal_decay = decays


def _zeroes_whole_tokens(layer: Captured) -> bool:
    """Whether queries and keys of padding are zero too: releases with that function do so."""
    return hasattr(sys.modules[type(layer.module).__module__], "apply_mask_to_padding_states")


ADAPTER = Adapter(
    families={"transformers.models.minimax.modeling_minimax.MiniMaxLightningAttention": "minimax"},
    read=read,
    enter=enter,
    leave=leave,
    renew=renew,
)
