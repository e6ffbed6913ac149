"""Reads delta rules: the gated one, Kimi's, and those of the ``fla`` package.

query = q / |q| / √dk      key = k / |k|      rate = σ(b), twice that for negative eigenvalues
log decay = -exp(A_log) softplus(a + dt_bias), one for each head, in Kimi's rule (with f for a) one
for each key channel, or bound · σ(exp(A_log) (f + dt_bias))
output = out_proj(w ⊙ RMS(scan) ⊙ act(gate)), the norm over one head

Consecutive value heads share one key head. In gated DeltaProduct every token has several keys,
values and rates, and decays before the first. In Comba what is erased is compared with the state
before it decays: removal = σ(decay) k of unit length, query = (q - D σ(decay) k) of unit length.

Source: transformers; flash-linear-attention 0.6.0, ``fla/layers/{delta_net,gated_deltanet,kda,
gated_deltaproduct,comba}.py``, ``fla/ops/comba/fused_recurrent.py``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import elu, softplus

from dsf.certificates import StoredLayer
from dsf.inspection.adapter import Adapter, Settings, Sizes, Structure, groups_of
from dsf.inspection.capture.calls import Captured
from dsf.inspection.errors import InspectionError
from dsf.inspection.families import shared
from dsf.inspection.whole.stages import Chain, Project, Scale
from dsf.mixers import Comba, DeltaNet, GatedDeltaNet, GatedDeltaProduct, KimiDeltaAttention

IN_TRANSFORMERS = shared.of_transformers(
    qwen3_next="Qwen3NextGatedDeltaNet",
    qwen3_5="Qwen3_5GatedDeltaNet",
    qwen3_5_moe="Qwen3_5MoeGatedDeltaNet",
    qwen4_exp="Qwen4ExpTextGatedDeltaNet",
    lara_mini="LaraMiniGatedDeltaNet",
    olmo_hybrid="OlmoHybridGatedDeltaNet",
)
KIMI_IN_TRANSFORMERS = shared.of_transformers(
    kimi_linear="KimiLinearDeltaAttention",
    bailing_hybrid="BailingHybridDeltaAttention",
    glm5_next="Glm5NextTextLinearAttention",
)
OURS = {*IN_TRANSFORMERS.values(), *KIMI_IN_TRANSFORMERS.values()}


def _delta_net(layer: Captured) -> DeltaNet:
    return DeltaNet(**_parts(layer))


def _gated(layer: Captured) -> GatedDeltaNet:
    log_decay, initial = _decay_of_heads(layer), shared.state_before(layer)
    return GatedDeltaNet(log_decay=log_decay, initial=initial, **_parts(layer))


def _kimi(layer: Captured) -> KimiDeltaAttention:
    gate, path, names = layer.module, "", ("f_proj", "f_proj.0", "f_proj.1")
    if layer.family in OURS:
        gate, path = gate.forget_gate, "forget_gate."
        names = ("f_proj", "f_a_proj", "f_b_proj")
    raw = shared.through(layer, _seen(layer), *(f"{path}{name}" for name in names))
    heads, speed = shared.heads_of(layer), layer.weights[f"{path}A_log"].exp().view(-1, 1, 1)
    raw = shared.by_head(raw + layer.weights[f"{path}dt_bias"], heads)
    bound = getattr(gate, "lower_bound", getattr(gate, "safe_gate_lower_bound", None))
    if layer.family == "bailing_hybrid" and not gate.safe_gate:
        bound = None
    return KimiDeltaAttention(
        log_decay=-speed * softplus(raw) if bound is None else bound * (speed * raw).sigmoid(),
        initial=shared.state_before(layer),
        **_parts(layer),
    )


def _parts(layer: Captured) -> dict[str, Tensor]:
    """Query, key, value and rate; delta_net of fla has further settings."""
    module, heads, x = layer.module, shared.heads_of(layer), _seen(layer)
    kind = getattr(module, "qk_activation", "silu")
    bare = "silu" if kind == "silu" else "linear"
    pair = [shared.shared_by(_stream(layer, part, bare=bare), heads) for part in "qk"]
    if kind == "relu":
        pair = [part.relu() for part in pair]
    elif kind == "elu":
        pair = [elu(part) + 1 for part in pair]
    if getattr(module, "qk_norm", "l2") == "sum":
        query, key = (part / part.sum(-1, keepdim=True) for part in pair)
    else:
        epsilon = getattr(module, "unit_epsilon", shared.UNIT_EPSILON)
        query, key = (shared.unit_length(part, epsilon=epsilon) for part in pair)
    if getattr(module, "use_beta", True):
        rate = _of_heads(layer, "b").sigmoid().mT
    else:
        rate = torch.ones(len(x), heads, x.shape[1], dtype=x.dtype, device=x.device)
    return {
        "query": query * query.shape[-1] ** -0.5,
        "key": key,
        "value": _stream(layer, "v"),
        "rate": 2 * rate if getattr(module, "allow_neg_eigval", False) else rate,
    }


def _decay_of_heads(layer: Captured) -> Tensor:
    raw = _of_heads(layer, "a") + layer.weights["dt_bias"]
    return (-layer.weights["A_log"].exp() * softplus(raw)).mT


def _of_heads(layer: Captured, part: str) -> Tensor:
    """A projection with a number for every value head: ``a`` of the decay, ``b`` of the rate."""
    x = _seen(layer)
    if hasattr(layer.module, "in_proj_ba"):
        both = layer.project("in_proj_ba", x).unflatten(-1, (layer.module.num_k_heads, 2, -1))
        return both[..., "ba".index(part), :].flatten(-2)
    name = f"in_proj_{part}"
    return layer.project(name if hasattr(layer.module, name) else f"{part}_proj", x)


def _seen(layer: Captured) -> Tensor:
    if layer.family not in OURS:
        return shared.hidden(layer)
    return shared.masked(layer, layer.arguments["hidden_states"])


def _stream(layer: Captured, part: str, *, bare: str = "silu") -> Tensor:
    """Queries, keys or values in heads, through their convolution and activation."""
    if layer.family not in OURS:
        return shared.stream(layer, part, bare=bare)
    flat = shared.activation(layer)(_linear(layer, part)(layer.arguments["hidden_states"]))
    heads = shared.heads_of(layer)
    keys = getattr(layer.module, "num_k_heads", heads)
    return shared.by_head(flat, heads if part == "v" else keys)


def _linear(layer: Captured, part: str) -> Chain:
    """Mask, projection and convolution of queries, keys or values in transformers."""
    rows = _rows(layer, part)
    if hasattr(layer.module, f"{part}_conv1d"):  # in olmo_hybrid until 5.8
        filtered = shared.convolution(layer, f"{part}_conv1d")
    else:
        size = len(rows.weight)
        channels = {"q": slice(size), "k": slice(size, 2 * size), "v": slice(-size, None)}[part]
        filtered = shared.convolution(layer, "conv1d", channels)
    return Chain((*shared.masking(layer, layer.arguments["hidden_states"]), rows, filtered))


def _rows(layer: Captured, part: str) -> Project:
    """The projection of queries, keys, values or (``z``) the output gate."""
    module = layer.module
    if hasattr(module, "in_proj_qkvz"):  # ordered by key head: q, k, then v and z
        heads, keys = module.num_k_heads, module.head_k_dim
        sizes = [keys, keys, *[module.value_dim // heads] * 2]

        def picked(qkvz: Tensor) -> Tensor:
            by_kind = qkvz.unflatten(-1, (heads, -1)).split(sizes, dim=-1)
            return by_kind["qkvz".index(part)].flatten(-2)

        return shared.some_rows(layer, "in_proj_qkvz", picked)
    if part == "z":
        return layer.projection("in_proj_z")
    if hasattr(module, "in_proj_qkv"):
        widths, place = [module.key_dim, module.key_dim, module.value_dim], "qkv".index(part)
        return shared.some_rows(layer, "in_proj_qkv", lambda qkv: qkv.split(widths, dim=-1)[place])
    return layer.projection(f"{part}_proj")


def _enter(layer: Captured) -> Chain:
    x = layer.arguments["hidden_states"]
    return shared.activated(_linear(layer, "v"), shared.activation(layer), x)


def _leave(layer: Captured, response: Tensor) -> Chain:
    x, is_joint = _seen(layer), hasattr(layer.module, "out_proj")
    if is_joint:
        gate = _rows(layer, "z")(x)
    else:
        gate = shared.through(layer, x, "g_proj", "g_a_proj", "g_b_proj")
    norm, out = ("norm", "out_proj") if is_joint else ("o_norm", "o_proj")
    factor = shared.head_norm(layer, norm, response, shared.heads_of(layer))
    return Chain((Scale(factor * shared.activation(layer, norm)(gate)), layer.projection(out)))


def _stored(module: Any, arguments: Mapping[str, Any], head: int) -> StoredLayer:
    """The weights behind the map of one value head of qwen3_next."""
    weights = {name: part.detach() for name, part in module.named_parameters()}
    if "in_proj_qkvz.weight" not in weights:
        raise InspectionError(
            f"{type(module).__name__}: a stored layer of a gated delta rule is offered for "
            "qwen3_next alone. certify.nonnegative(layer.map()) speaks of the formed map."
        )
    heads, width = module.num_k_heads, module.head_k_dim
    group, place = divmod(head, module.num_v_heads // heads)
    rows = weights["in_proj_qkvz.weight"].unflatten(0, (heads, -1))[group]
    rate, step = weights["in_proj_ba.weight"].unflatten(0, (heads, 2, -1))[group, :, place]
    taps = weights["conv1d.weight"].squeeze(1)[: 2 * module.key_dim].unflatten(0, (2, heads, -1))
    numbers = {"epsilon": shared.UNIT_EPSILON, "scale": width**-0.5}
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


GATED = Adapter(families=IN_TRANSFORMERS, read=_gated, enter=_enter, leave=_leave, stored=_stored)
KIMI = Adapter(families=KIMI_IN_TRANSFORMERS, read=_kimi, enter=_enter, leave=_leave)


def _comba(layer: Captured) -> Comba:
    x, module, weights = shared.hidden(layer), layer.module, layer.weights
    query, key = shared.stream(layer, "q", bare="silu"), shared.stream(layer, "k", bare="silu")
    removal = key
    if module.use_inner_decay:
        removal = weights["decay"].sigmoid()[:, None, None] * key
    if module.use_output_correction:
        query = query - weights["D"][:, None, None] * removal
    query, key, removal = (
        shared.shared_by(shared.unit_length(part), module.num_v_heads)
        for part in (query, key, removal)
    )
    log_decay = _decay_of_heads(layer)
    return Comba(
        query=query * module.head_k_dim**-0.5,
        key=key,
        removal=removal * (-log_decay).exp().unsqueeze(-1),
        value=shared.stream(layer, "v", bare="silu"),
        rate=layer.project("b_proj", x).sigmoid().mT,
        log_decay=log_decay,
    )


def _delta_product(layer: Captured) -> GatedDeltaProduct:
    module, values = layer.module, layer.module.num_v_heads
    rate = layer.project("b_proj", shared.hidden(layer)).sigmoid() * (
        2 if module.allow_neg_eigval else 1
    )
    query = shared.unit_length(shared.stream(layer, "q", bare="silu"))
    key = shared.unit_length(
        _micro(layer, shared.convolved(layer, "k", bare="silu"), module.num_heads)
    )
    return GatedDeltaProduct(
        query=shared.shared_by(query, values) * module.head_k_dim**-0.5,
        key=shared.shared_by(key, values),
        value=_micro(layer, shared.convolved(layer, "v", bare="silu"), values),
        rate=_micro(layer, rate, values).squeeze(-1),
        log_decay=_decay_of_heads(layer) if module.use_forget_gate else None,
    )


def _micro(layer: Captured, x: Tensor, heads: int) -> Tensor:
    """``x`` by head and rule: ``sample head time micro channel``."""
    shape = "sample time (micro head channel) -> sample head time micro channel"
    return rearrange(x, shape, head=heads, micro=layer.module.num_householder)


def _finish_product(layer: Captured, mixed: Tensor) -> Tensor:
    response = shared.side_by_side(mixed.squeeze(-2))
    return shared.leaving_gated(layer, response)(response)


_ENDS = {"enter": partial(shared.entering, bare="silu"), "leave": shared.leaving_gated}
GATED_DELTANET = shared.fla_adapter("gated_deltanet.GatedDeltaNet", _gated, **_ENDS)
ADAPTERS = (
    GATED,
    KIMI,
    shared.fla_adapter("delta_net.DeltaNet", _delta_net, **_ENDS),
    GATED_DELTANET,
    shared.fla_adapter("kda.KimiDeltaAttention", _kimi, **_ENDS),
    shared.fla_adapter("comba.Comba", _comba, **_ENDS),
    shared.fla_adapter(
        "gated_deltaproduct.GatedDeltaProduct", _delta_product, finish=_finish_product
    ),
)


def _settings(module: Any, sizes: Sizes) -> Iterator[Settings]:
    """Heads of a module that was written elsewhere, and how it makes keys of unit length."""
    keys, rest = sizes.get("keys", 0), 0
    if not keys:  # of one projection for queries, keys and values
        keys, rest = divmod(sizes["mixed"] - sizes["values"], 2)
    if rest or keys <= 0:
        return
    names = "num_k_heads", "num_heads", "n_heads"
    heads = groups_of(module, names, sizes["heads"], keys, likely=sizes["heads"])
    negative = getattr(module, "allow_neg_eigval", None)
    doubled = (False, True) if negative is None else (bool(negative),)
    for count, twice, epsilon in product(heads, doubled, (shared.UNIT_EPSILON, 0.0)):
        yield {
            "num_heads": count,
            "num_k_heads": count,
            "num_v_heads": sizes["heads"],
            "head_k_dim": keys // count,
            "key_dim": keys,
            "value_dim": sizes["values"],
            "use_gate": hasattr(module, "g_proj"),
            "allow_neg_eigval": twice,
            "unit_epsilon": epsilon,
        }


_DECAY = {"A_log": "heads", "dt_bias": "heads"}
STRUCTURES = (
    Structure(
        title="a gated delta rule",
        family="qwen3_next",
        adapter=GATED,
        parameters={
            "in_proj_qkvz.weight": "mixed+values model",
            "in_proj_ba.weight": "heads+heads model",
            "conv1d.weight": "mixed 1 taps",
            **_DECAY,
            "norm.weight": "width",
            "out_proj.weight": "model values",
        },
        settings=_settings,
    ),
    Structure(
        title="a gated delta rule",
        family="gated_deltanet",
        adapter=replace(GATED_DELTANET, tolerance=Adapter.tolerance),
        parameters={
            "q_proj.weight": "keys model",
            "k_proj.weight": "keys model",
            "v_proj.weight": "values model",
            "a_proj.weight": "heads model",
            "b_proj.weight": "heads model",
            **_DECAY,
            "o_norm.weight": "width",
            "o_proj.weight": "model values",
        },
        settings=_settings,
    ),
)
