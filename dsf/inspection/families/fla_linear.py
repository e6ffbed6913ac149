"""Reads linear attention of the ``fla`` package, with and without decays.

Queries are scaled by ``1 / sqrt(dk)`` inside the kernels. After the mixer follow the norm of
every head, the output gate ``g_proj`` and the output projection; hgrn2 has one norm over all heads
and no gate.

Source: flash-linear-attention 0.6.0, ``fla/layers``: ``gla``, ``simple_gla``,
``multiscale_retention``, ``linear_attn``, ``hgrn2``.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import elu, logsigmoid, silu

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.errors import UnreadableError
from dsf.inspection.families.fla_shared import (
    TOLERANCE,
    entering,
    given,
    hidden,
    known_by,
    leaving,
    rotated,
    stream,
    through,
)
from dsf.inspection.families.shared import by_head, epsilon_of, masked, masking, rms_factor
from dsf.inspection.whole.stages import Chain, Project, Scale
from dsf.mixers import HGRN2, GatedLinearAttention, LinearAttention, Retention, ScalarGatedAttention
from dsf.mixers.ingredients.feature_maps import identity

Read = GatedLinearAttention | ScalarGatedAttention | Retention | LinearAttention | HGRN2


def read(layer: Captured) -> Read:
    """The mixer that this layer applied, according to its family."""
    return READERS[layer.family](layer)


def _gla(layer: Captured) -> GatedLinearAttention:
    module = layer.module
    raw = through(layer, "gk_proj", hidden(layer))
    log_decay = logsigmoid(raw) / module.gate_logit_normalizer
    if module.clamp_min is not None:
        log_decay = log_decay.clamp(min=module.clamp_min)
    heads = by_head(log_decay, module.num_kv_heads)
    query, key = _mapped(layer)
    return GatedLinearAttention(
        query=query * module.head_k_dim**-0.5,
        key=key,
        value=stream(layer, "v"),
        log_decay=heads.repeat_interleave(module.num_kv_groups, dim=1),
    )


def _simple_gla(layer: Captured) -> ScalarGatedAttention:
    """One decay for every head; padding keeps the state as it is."""
    module = layer.module
    log_decay = logsigmoid(layer.project("gk_proj", given(layer))) / module.gate_logit_normalizer
    query, key = _mapped(layer)
    return ScalarGatedAttention(
        query=query * module.head_k_dim**-0.5,
        key=key,
        value=stream(layer, "v"),
        log_decay=masked(layer, log_decay).mT,
    )


def _retention(layer: Captured) -> Retention:
    """Head h has the decay ``1 - 2 ** (-5 - h)`` per token."""
    query, key = (rotated(part) for part in _mapped(layer))
    heads = torch.arange(layer.module.num_heads, dtype=query.dtype, device=query.device)
    return Retention(
        query=query * layer.module.head_k_dim**-0.5,
        key=key,
        value=stream(layer, "v"),
        decay=(1 - 2.0 ** (-5 - heads)).expand(query.shape[:2]),
    )


def _linear(layer: Captured) -> LinearAttention:
    module = layer.module
    query, key = (_features(layer, f"feature_map_{part}", stream(layer, part)) for part in "qk")
    query = query / (query.sum(-1, True) + 1e-4) if module.norm_q else query
    key = key / (key.sum(-1, True) + 1e-4) if module.norm_k else key
    for stage in masking(layer, hidden(layer)):  # the features of padding are not zero
        key = stage.factor.unsqueeze(1) * key
    return LinearAttention(
        query=query * query.shape[-1] ** -0.5,
        key=key,
        value=stream(layer, "v"),
        feature_map=identity,
        normalised=module.do_feature_map_norm,
        epsilon=1e-10,
    )


def _hgrn2(layer: Captured) -> HGRN2:
    module, bound = layer.module, layer.arguments.get("lower_bound")
    decay = stream(layer, "f").sigmoid()
    if bound is not None and module.layer_idx > 0:
        least = rearrange(bound, "(head key) -> head 1 key", head=module.num_heads)
        decay = least + (1 - least) * decay
    query = silu(stream(layer, "q")) * module.head_f_dim**-0.5
    return HGRN2(query=query, value=stream(layer, "i"), decay=decay)


READERS: dict[str, Callable[[Captured], Read]] = {
    "gla": _gla,
    "simple_gla": _simple_gla,
    "retention": _retention,
    "linear_attn": _linear,
    "hgrn2": _hgrn2,
}


def enter(layer: Captured) -> Chain:
    """Projection, convolution and activation of the values."""
    return entering(layer, "i" if layer.family == "hgrn2" else "v")


def leave(layer: Captured, response: Tensor) -> Chain:
    """Norm, output gate, output projection."""
    module = layer.module
    if layer.family == "hgrn2":
        norm = rms_factor(response, epsilon=epsilon_of(module.g_norm))
        weight = layer.weights.get("g_norm.weight", torch.ones_like(norm))
        padding = masking(layer, response)
        return Chain((Scale(norm * weight), layer.projection("o_proj"), *padding))
    if layer.family == "linear_attn":
        if "norm.weight" in layer.weights:
            return leaving(layer, response, norm="norm", heads=module.num_heads, gate=None)
        return Chain((layer.projection("o_proj"), *masking(layer, response)))
    fused, has_gate = module.fuse_norm_and_gate, getattr(module, "use_output_gate", True)
    gate = "silu" if fused else known_by(module.gate_fn) if has_gate else None
    norm_name = "g_norm_swish_gate" if fused else "g_norm"
    return leaving(layer, response, norm=norm_name, heads=module.num_heads, gate=gate)


def _mapped(layer: Captured) -> tuple[Tensor, Tensor]:
    """Queries and keys, through the layer's feature map where it has one."""
    query, key = stream(layer, "q"), stream(layer, "k")
    function = layer.module.feature_map_fn
    if function is None:
        return query, key
    if known_by(function) != "relu":
        raise UnreadableError(
            "its feature map is not relu, the only one that this adapter reads in its family"
        )
    return query.relu(), key.relu()


def _features(layer: Captured, name: str, x: Tensor) -> Tensor:
    """``x`` through the feature map ``name``: a function, or a module with weights."""
    kind = getattr(layer.module, name)
    called = getattr(kind, "__name__", type(kind).__name__)

    def part(which: str) -> Project:
        return layer.projection(f"{name}.{which}")

    maps: dict[str, Callable[[], Tensor]] = {
        "Identity": lambda: x,
        "ReLU": x.relu,
        "elu_p1": lambda: elu(x) + 1,
        "HadamardFeatureMap": lambda: part("layer1")(x) * part("layer2")(x),
        "T2RFeatureMap": lambda: part("layer")(x).relu(),
        "HedgehogFeatureMap": lambda: _both_signs(2 * part("layer")(x)).softmax(dim=-1),
        "DPFPFeatureMap": lambda: _shifted_products(_both_signs(x).relu(), kind.nu),
    }
    if called not in maps:
        raise UnreadableError(f"its feature map {called} is not known to this adapter")
    return maps[called]()


def _both_signs(x: Tensor) -> Tensor:
    return torch.cat([x, -x], dim=-1)


def _shifted_products(x: Tensor, shifts: int) -> Tensor:
    """Products of each feature with the features 1, 2, ... places before it."""
    return torch.cat([x * x.roll(shift, dims=-1) for shift in range(1, shifts + 1)], dim=-1)


ADAPTER = Adapter(
    families={
        "fla.layers.gla.GatedLinearAttention": "gla",
        "fla.layers.simple_gla.SimpleGatedLinearAttention": "simple_gla",
        "fla.layers.multiscale_retention.MultiScaleRetention": "retention",
        "fla.layers.linear_attn.LinearAttention": "linear_attn",
        "fla.layers.hgrn2.HGRN2Attention": "hgrn2",
    },
    read=read,
    enter=enter,
    leave=leave,
    tolerance=TOLERANCE,
)
