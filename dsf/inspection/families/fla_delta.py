"""Reads delta rules of the ``fla`` package: delta_net, gated_deltanet and kda.

query = q / |q| / √dk      key = k / |k|
rate = σ(b), twice that where negative eigenvalues are allowed
gated_deltanet: log decay = -exp(A_log) softplus(a + dt_bias), one per head
kda: the same with f for a, one per key channel, or bound · σ(exp(A_log) (f + dt_bias))
output = o_proj(w ⊙ RMS(scan) ⊙ act(gate)), the norm over one head

Source: flash-linear-attention 0.6.0, ``fla/layers/{delta_net,gated_deltanet,kda}.py``.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import elu, softplus

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.families.fla_shared import (
    TOLERANCE,
    decay_of_heads,
    entering,
    hidden,
    leaving,
    shared_by,
    stream,
    through,
)
from dsf.inspection.families.shared import UNIT_EPSILON, by_head, unit_length
from dsf.inspection.families.structure import Settings, Sizes, Structure, key_heads
from dsf.inspection.whole.stages import Chain
from dsf.mixers import DeltaNet, GatedDeltaNet, KimiDeltaAttention

Read = DeltaNet | GatedDeltaNet | KimiDeltaAttention


def read(layer: Captured) -> Read:
    """The delta rule this layer ran."""
    x, heads = hidden(layer), _value_heads(layer)
    query, key = (shared_by(part, heads) for part in _pair(layer))
    query = query * layer.module.head_k_dim**-0.5
    parts = {"query": query, "key": key, "value": stream(layer, "v", bare="silu")}
    if layer.family == "delta_net":
        return DeltaNet(rate=_rate(layer, x), **parts)
    if layer.family == "gated_deltanet":
        return GatedDeltaNet(rate=_rate(layer, x), log_decay=decay_of_heads(layer, x), **parts)
    return KimiDeltaAttention(rate=_rate(layer, x), log_decay=_log_decay(layer, x), **parts)


def enter(layer: Captured) -> Chain:
    """Projection, convolution and activation of the values."""
    return entering(layer, bare="silu")


def leave(layer: Captured, response: Tensor) -> Chain:
    """The norm of every head, the output gate, then the output projection."""
    gated = getattr(layer.module, "use_gate", True)
    gate = getattr(layer.module.o_norm, "activation", "silu") if gated else None
    return leaving(layer, response, norm="o_norm", heads=_value_heads(layer), gate=gate)


def _pair(layer: Captured) -> tuple[Tensor, Tensor]:
    """Queries and keys, activated and of unit length; delta_net has other settings too."""
    kind = getattr(layer.module, "qk_activation", "silu")
    read_part = partial(stream, layer, bare="silu" if kind == "silu" else "linear")
    query, key = read_part("q"), read_part("k")
    if kind == "relu":
        query, key = query.relu(), key.relu()
    elif kind == "elu":
        query, key = elu(query) + 1, elu(key) + 1
    if getattr(layer.module, "qk_norm", "l2") == "sum":
        return query / query.sum(-1, keepdim=True), key / key.sum(-1, keepdim=True)
    epsilon = getattr(layer.module, "unit_epsilon", UNIT_EPSILON)
    return unit_length(query, epsilon=epsilon), unit_length(key, epsilon=epsilon)


def _rate(layer: Captured, x: Tensor) -> Tensor:
    module = layer.module
    if getattr(module, "use_beta", True):
        rate = layer.project("b_proj", x).sigmoid().mT
    else:
        rate = torch.ones(len(x), module.num_heads, x.shape[1], dtype=x.dtype, device=x.device)
    return 2 * rate if module.allow_neg_eigval else rate


def _log_decay(layer: Captured, x: Tensor) -> Tensor:
    raw = by_head(through(layer, "f_proj", x) + layer.weights["dt_bias"], _value_heads(layer))
    speed, bound = layer.weights["A_log"].exp().view(-1, 1, 1), layer.module.lower_bound
    return -speed * softplus(raw) if bound is None else bound * (speed * raw).sigmoid()


def _value_heads(layer: Captured) -> int:
    heads: int = getattr(layer.module, "num_v_heads", layer.module.num_heads)
    return heads


ADAPTER = Adapter(
    families={
        "fla.layers.delta_net.DeltaNet": "delta_net",
        "fla.layers.gated_deltanet.GatedDeltaNet": "gated_deltanet",
        "fla.layers.kda.KimiDeltaAttention": "kda",
    },
    read=read,
    enter=enter,
    leave=leave,
    tolerance=TOLERANCE,
)


def _settings(module: Any, sizes: Sizes) -> Iterator[Settings]:
    """Heads of a module that was written elsewhere, and how it makes keys of unit length."""
    heads = key_heads(module, sizes["heads"], sizes["keys"])
    negative = getattr(module, "allow_neg_eigval", None)
    doubled = (False, True) if negative is None else (bool(negative),)
    for shared, twice, epsilon in product(heads, doubled, (UNIT_EPSILON, 0.0)):
        yield {
            "num_heads": shared,
            "num_v_heads": sizes["heads"],
            "head_k_dim": sizes["keys"] // shared,
            "use_gate": hasattr(module, "g_proj"),
            "allow_neg_eigval": twice,
            "unit_epsilon": epsilon,
        }


STRUCTURE = Structure(
    title="a gated delta rule",
    family="gated_deltanet",
    adapter=replace(ADAPTER, tolerance=Adapter.tolerance),
    parameters={
        "q_proj.weight": "keys model",
        "k_proj.weight": "keys model",
        "v_proj.weight": "values model",
        "a_proj.weight": "heads model",
        "b_proj.weight": "heads model",
        "A_log": "heads",
        "dt_bias": "heads",
        "o_norm.weight": "width",
        "o_proj.weight": "model values",
    },
    settings=_settings,
)
