"""Reads the gated delta rule of qwen3_next, qwen3_5(_moe), qwen4_exp, lara_mini, olmo_hybrid.

[q|k|v] = act(conv ·)      query = q / |q| / √dk      key = k / |k|      rate = σ(b)
log decay = -exp(A_log) softplus(a + dt_bias)      output = out_proj(w ⊙ RMS(scan) ⊙ act(z))

The norm covers the channels of one head. Consecutive value heads share one key head.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from dsf.certificates import StoredLayer
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.errors import InspectionError
from dsf.inspection.families.shared import (
    LONE_PADDING,
    UNIT_EPSILON,
    activation,
    by_head,
    convolution,
    epsilon_of,
    masked,
    masking,
    rms_factor,
    some_rows,
    state_before,
    unit_length,
)
from dsf.inspection.families.structure import Settings, Sizes, Structure, key_heads
from dsf.inspection.whole.stages import Chain, Scale, Stage, secant
from dsf.mixers import GatedDeltaNet

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
PREFIXES = {
    "qwen3_next": "Qwen3Next",
    "qwen3_5": "Qwen3_5",
    "qwen3_5_moe": "Qwen3_5Moe",
    "qwen4_exp": "Qwen4ExpText",
    "lara_mini": "LaraMini",
    "olmo_hybrid": "OlmoHybrid",
}


def read(layer: Captured) -> GatedDeltaNet:
    """The delta rule this layer ran."""
    module, weights = layer.module, layer.weights
    qkv, _, b, a = _projected(layer)
    qkv = activation(layer)(_convolved(layer, qkv))
    query, key, value = qkv.split([module.key_dim, module.key_dim, module.value_dim], dim=-1)
    rate = b.sigmoid() * (2 if getattr(module, "allow_neg_eigval", False) else 1)
    epsilon = getattr(module, "unit_epsilon", UNIT_EPSILON)
    return GatedDeltaNet(
        query=unit_length(_shared(layer, query), epsilon=epsilon) * module.head_k_dim**-0.5,
        key=unit_length(_shared(layer, key), epsilon=epsilon),
        value=by_head(value, module.num_v_heads),
        rate=rate.mT,
        log_decay=(-weights["A_log"].exp() * softplus(a + weights["dt_bias"])).mT,
        initial=state_before(layer),
    )


def enter(layer: Captured) -> Chain:
    """Projection, convolution and activation of the values; padding is set to zero before."""
    hidden = layer.arguments["hidden_states"]
    linear = Chain((*masking(layer, hidden), *_values(layer)))
    return Chain((*linear, Scale(secant(activation(layer), linear(hidden)))))


def leave(layer: Captured, response: Tensor) -> Chain:
    """The norm of every head, the output gate, then the output projection."""
    norm, out = ("o_norm", "o_proj") if layer.family == "olmo_hybrid" else ("norm", "out_proj")
    heads = response.unflatten(-1, (layer.module.num_v_heads, -1))
    factor = rms_factor(heads, epsilon=epsilon_of(layer.module.get_submodule(norm)))
    factor = (layer.weights[f"{norm}.weight"] * factor).flatten(-2)
    gate = activation(layer, norm)(_output_gate(layer))
    return Chain((Scale(factor * gate), layer.projection(out)))


def _values(layer: Captured) -> tuple[Stage, ...]:
    """The projection of the values, and their convolution."""
    keys = 2 * layer.module.key_dim
    if "v_conv1d.weight" in layer.weights:
        return layer.projection("v_proj"), convolution(layer, "v_conv1d")
    if layer.family == "qwen3_next":
        rows = some_rows(layer, "in_proj_qkvz", lambda qkvz: _by_kind(layer, qkvz)[2])
    elif layer.family == "olmo_hybrid":
        rows = layer.projection("v_proj")
    else:
        rows = some_rows(layer, "in_proj_qkv", lambda qkv: qkv[..., keys:])
    return rows, convolution(layer, "conv1d", slice(keys, None))


def _projected(layer: Captured) -> Inputs:
    """The input of the convolution (all queries, all keys, all values), then z, b and a."""
    hidden = masked(layer, layer.arguments["hidden_states"])
    if layer.family == "qwen3_next":
        return _from_key_heads(layer, hidden)
    if layer.family == "olmo_hybrid":
        qkv = torch.cat([layer.project(f"{part}_proj", hidden) for part in "qkv"], dim=-1)
        rest = (f"{part}_proj" for part in "gba")
    else:
        qkv = layer.project("in_proj_qkv", hidden)
        rest = (f"in_proj_{part}" for part in "zba")
    z, b, a = (layer.project(name, hidden) for name in rest)
    return qkv, z, b, a


def _output_gate(layer: Captured) -> Tensor:
    """z alone, before its activation."""
    hidden = masked(layer, layer.arguments["hidden_states"])
    if layer.family == "qwen3_next":
        return _by_kind(layer, layer.project("in_proj_qkvz", hidden))[3]
    return layer.project("g_proj" if layer.family == "olmo_hybrid" else "in_proj_z", hidden)


def _from_key_heads(layer: Captured, hidden: Tensor) -> Inputs:
    """The same for qwen3_next, whose projection is ordered by key head: q, k, then v and z."""
    q, k, v, z = _by_kind(layer, layer.project("in_proj_qkvz", hidden))
    ba = layer.project("in_proj_ba", hidden).unflatten(-1, (layer.module.num_k_heads, 2, -1))
    b, a = (part.flatten(-2) for part in ba.unbind(-2))
    return torch.cat([q, k, v], dim=-1), z, b, a


def _by_kind(layer: Captured, qkvz: Tensor) -> Inputs:
    module = layer.module
    heads, keys = module.num_k_heads, module.head_k_dim
    values = module.value_dim // heads
    sizes = [keys, keys, values, values]
    parts = qkvz.unflatten(-1, (heads, -1)).split(sizes, dim=-1)
    q, k, v, z = (part.flatten(-2) for part in parts)
    return q, k, v, z


def _convolved(layer: Captured, qkv: Tensor) -> Tensor:
    """Queries, keys and values convolved: by one convolution, in olmo_hybrid until 5.8 by three."""
    if "conv1d.weight" in layer.weights:
        return convolution(layer, "conv1d")(qkv)
    module = layer.module
    parts = qkv.split([module.key_dim, module.key_dim, module.value_dim], dim=-1)
    named = zip("qkv", parts, strict=True)
    return torch.cat([convolution(layer, f"{n}_conv1d")(x) for n, x in named], dim=-1)


def _shared(layer: Captured, part: Tensor) -> Tensor:
    """Keys or queries, repeated for every value head."""
    heads = layer.module.num_k_heads
    served = layer.module.num_v_heads // heads
    return by_head(part, heads).repeat_interleave(served, dim=1)


def stored(module: Any, arguments: Mapping[str, Any], head: int) -> StoredLayer:
    """The weights behind the map of one value head of qwen3_next.

    Raises:
        InspectionError: for the other families, whose projections lie elsewhere.
    """
    weights = {name: part.detach() for name, part in module.named_parameters()}
    if "in_proj_qkvz.weight" not in weights:
        raise InspectionError(
            f"{type(module).__name__}: a stored layer of a gated delta rule is offered for "
            "qwen3_next alone. certify.nonnegative(layer.map()) speaks of the formed map."
        )
    shared, width = module.num_k_heads, module.head_k_dim
    group, place = divmod(head, module.num_v_heads // shared)
    rows = weights["in_proj_qkvz.weight"].unflatten(0, (shared, -1))[group]
    rate, step = weights["in_proj_ba.weight"].unflatten(0, (shared, 2, -1))[group, :, place]
    taps = weights["conv1d.weight"].squeeze(1)[: 2 * module.key_dim].unflatten(0, (2, shared, -1))
    numbers = {"epsilon": UNIT_EPSILON, "scale": width**-0.5}
    return StoredLayer(
        "gated_delta_net",
        {
            "A_log": weights["A_log"][head : head + 1],
            "input": arguments["hidden_states"][0].detach(),
            "rate_weight": rate,
            "read_convolution": taps[0, group],
            "read_weight": rows[:width],
            "step_bias": weights["dt_bias"][head : head + 1],
            "step_weight": step,
            "write_convolution": taps[1, group],
            "write_weight": rows[width : 2 * width],
        }
        | {name: torch.tensor([x], dtype=torch.float64) for name, x in numbers.items()},
    )


ADAPTER = Adapter(
    families={
        f"transformers.models.{family}.modeling_{family}.{prefix}GatedDeltaNet": family
        for family, prefix in PREFIXES.items()
    },
    read=read,
    enter=enter,
    leave=leave,
    advice=dict.fromkeys(PREFIXES, LONE_PADDING),
    stored=stored,
)


def _settings(module: Any, sizes: Sizes) -> Iterator[Settings]:
    """Heads of a module that was written elsewhere, and how it makes keys of unit length."""
    keys, rest = divmod(sizes["mixed"] - sizes["values"], 2)
    if rest or keys <= 0:
        return
    heads = key_heads(module, sizes["heads"], keys)
    for shared, epsilon in product(heads, (UNIT_EPSILON, 0.0)):
        yield {
            "num_k_heads": shared,
            "num_v_heads": sizes["heads"],
            "head_k_dim": keys // shared,
            "key_dim": keys,
            "value_dim": sizes["values"],
            "unit_epsilon": epsilon,
        }


STRUCTURE = Structure(
    title="a gated delta rule",
    family="qwen3_next",
    adapter=ADAPTER,
    parameters={
        "in_proj_qkvz.weight": "mixed+values model",
        "in_proj_ba.weight": "heads+heads model",
        "conv1d.weight": "mixed 1 taps",
        "A_log": "heads",
        "dt_bias": "heads",
        "norm.weight": "width",
        "out_proj.weight": "model values",
    },
    settings=_settings,
)
