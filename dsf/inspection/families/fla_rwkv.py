"""Reads RWKV-6 and RWKV-7 of the ``fla`` package.

Every part sees a blend of its token with the one before. In rwkv6 the blend is computed from both:
μ + W₂ tanh(W₁ blend). In rwkv7 it is a parameter, and the values are blended with those of the
first layer.

rwkv6: log decay = -exp(w)      output = o_proj(GroupNorm(scan) ⊙ act(g))
rwkv7: rate = σ(a), removal = k_k k of unit length, otherwise as in ``rwkv7``

Padding is set to zero before anything else and writes nothing.

Source: flash-linear-attention 0.6.0, ``fla/layers/{rwkv6,rwkv7}.py``.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.families.fla_shared import TOLERANCE, hidden, known_by
from dsf.inspection.families.rwkv7 import own_values, recurrence
from dsf.inspection.families.shared import (
    ACTIVATIONS,
    by_head,
    earlier,
    group_normalised,
    masked,
    side_by_side,
    unit_length,
)
from dsf.mixers import RWKV6, RWKV7

PARTS = "rwkvg"


def read(layer: Captured) -> RWKV6 | RWKV7:
    """The recurrence this layer ran, according to its family."""
    return _rwkv6(layer) if layer.family == "rwkv6" else _rwkv7(layer)


def finish(layer: Captured, mixed: Tensor) -> Tensor:
    """Norm of every head, output gate, output projection."""
    response = side_by_side(mixed.squeeze(-2))
    if layer.family == "rwkv6":
        act = ACTIVATIONS[known_by(layer.module.gate_fn)]
        return layer.project("o_proj", _normalised(layer, response) * act(_blended6(layer)["g"]))
    gate = _low_rank(layer, "g_lora", _blended7(layer, "g"), "sigmoid")
    both = _normalised(layer, response) + own_values(_rwkv7(layer), layer.weights["r_k"])
    return layer.project("o_proj", both * gate)


def _rwkv6(layer: Captured) -> RWKV6:
    parts, heads = _blended6(layer), layer.module.num_heads
    bonus = layer.weights["bonus"]
    return RWKV6(
        query=by_head(parts["r"], heads),
        key=by_head(parts["k"], heads),
        value=by_head(masked(layer, parts["v"]), heads),
        log_decay=-by_head(parts["w"], heads).exp(),
        bonus=bonus.expand(len(parts["r"]), *bonus.shape),
    )


def _blended6(layer: Captured) -> dict[str, Tensor]:
    """All projections of rwkv6, each of a blend of its own."""
    x, size = hidden(layer), len(PARTS)
    delta = earlier(x) - x
    mixed = layer.project("x_proj.0.linear", x + delta * layer.weights["x_proj.0.mu"]).tanh()
    back = layer.weights["x_proj.2.weight"].unflatten(-1, (size, -1))
    blend = torch.einsum("stnr,hnr->nsth", mixed.unflatten(-1, (size, -1)), back)
    blend = blend + layer.weights["x_bias"][:, None, None]
    found = {}
    for name, part in zip(PARTS, blend, strict=True):
        seen, path = x + delta * part, f"{name}_proj.linear"
        is_low = f"{path}.weight" not in layer.weights
        found[name] = _low_rank(layer, path, seen, "tanh") if is_low else layer.project(path, seen)
    return found


def _rwkv7(layer: Captured) -> RWKV7:
    weights, key = layer.weights, layer.project("k_proj", _blended7(layer, "k"))
    removal = by_head(key * weights["k_k"], layer.module.num_heads)
    return recurrence(
        query=layer.project("r_proj", _blended7(layer, "r")),
        key=key,
        value=_values7(layer),
        decay=_low_rank(layer, "w_lora", _blended7(layer, "w"), "tanh"),
        rate=_low_rank(layer, "a_lora", _blended7(layer, "a"), "linear").sigmoid(),
        key_rate=weights["k_a"],
        removal=unit_length(removal) if layer.module.fuse_norm else normalize(removal, dim=-1),
    )


def _values7(layer: Captured) -> Tensor:
    """The values; behind the first layer blended with those of the first."""
    seen = _blended7(layer, "v")
    value = layer.project("v_proj", seen)
    if layer.module.layer_idx != 0:
        own = _low_rank(layer, "v_lora", seen, "linear").sigmoid()
        value = value.lerp(layer.arguments["v_first"], own)
    return masked(layer, value)


def _blended7(layer: Captured, name: str) -> Tensor:
    x = hidden(layer)
    return x + (earlier(x) - x) * layer.weights[f"x_{name}"]


def _low_rank(layer: Captured, path: str, x: Tensor, act: str) -> Tensor:
    return layer.project(f"{path}.lora.2", ACTIVATIONS[act](layer.project(f"{path}.lora.0", x)))


def _normalised(layer: Captured, response: Tensor) -> Tensor:
    return group_normalised(layer, "g_norm", response, heads=layer.module.num_heads)


ADAPTER = Adapter(
    families={
        "fla.layers.rwkv6.RWKV6Attention": "rwkv6",
        "fla.layers.rwkv7.RWKV7Attention": "rwkv7",
    },
    read=read,
    finish=finish,
    tolerance=TOLERANCE,
)
