"""Reads linear and softmax attention, recurrences and memories of the ``fla`` package.

Queries are scaled by 1 / √dk inside the kernels. Behind the mixer follow, where a layer has them,
the norm of every head, the output gate ``g_proj`` and the output projection.

hgrn: value = SiLU(i), decay = σ(f), between a lower bound and one; the norm over all channels
gsa: value = SiLU(v), log decay of a slot = log σ(f) / normaliser, slot write = 1 - decay,
output = o_proj(w ⊙ RMS(SiLU(scan))), the norm over all heads
mesa_net: query and key of unit length, rate = σ(b), log decay = log σ(a), ridge = softplus(λ) +
bound
forgetting_attn: scores = q · k / √d + Σ log σ(f)
path_attn: scores = (q Π(I - rate w wᵀ) k + Σ log σ(g)) / √d, w of unit length, rate = 2 σ(bt)

Source: flash-linear-attention 0.6.0, ``fla/layers``, ``fla/ops/mesa_net/chunk_cg_solver_fwd.py``.
"""

from collections.abc import Callable
from functools import partial

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import logsigmoid, pad, rms_norm, silu, softplus

from dsf.inspection.capture.calls import Captured
from dsf.inspection.errors import UnreadableError
from dsf.inspection.families.shared import (
    ACTIVATIONS,
    by_head,
    by_own_code,
    convolution,
    convolved,
    entering,
    epsilon_of,
    fla_adapter,
    given,
    hidden,
    known_by,
    leaving,
    leaving_gated,
    masked,
    masking,
    put_out,
    rms_factor,
    shared_by,
    stream,
    through,
    unit_length,
)
from dsf.inspection.whole.stages import Chain, Scale, secant
from dsf.layers.attention import rotated
from dsf.mixers import (
    HGRN,
    HGRN2,
    ForgettingAttention,
    GatedLinearAttention,
    GatedSlotAttention,
    LinearAttention,
    PathAttention,
    Retention,
    ScalarGatedAttention,
)
from dsf.mixers.ingredients.feature_maps import identity

GSA_EPSILON = 1e-5
"""What the fused norm of gsa adds, whatever the layer's setting."""
DIVISOR = 1e-5
"""What the steps of mesa_net add to what they divide by."""
SLOT_FEATURES = {"SwishFeatureMap": "silu", "ReLUFeatureMap": "relu"}


def _gla(layer: Captured) -> GatedLinearAttention:
    module = layer.module
    raw = through(layer, hidden(layer), "gk_proj", "gk_proj.0", "gk_proj.1")
    log_decay = logsigmoid(raw) / module.gate_logit_normalizer
    if module.clamp_min is not None:
        log_decay = log_decay.clamp(min=module.clamp_min)
    log_decay = shared_by(by_head(log_decay, module.num_kv_heads), module.num_heads)
    return GatedLinearAttention(log_decay=log_decay, **_mapped(layer))


def _simple_gla(layer: Captured) -> ScalarGatedAttention:
    """One decay for every head; padding keeps the state as it is."""
    raw = layer.project("gk_proj", given(layer))
    log_decay = masked(layer, logsigmoid(raw) / layer.module.gate_logit_normalizer).mT
    return ScalarGatedAttention(log_decay=log_decay, **_mapped(layer))


def _retention(layer: Captured) -> Retention:
    """Head h has the decay ``1 - 2 ** (-5 - h)`` per token."""

    def turned(x: Tensor) -> Tensor:
        return rotated(x, torch.arange(x.shape[-2], dtype=x.dtype, device=x.device))

    parts = _mapped(layer, turned)
    query = parts["query"]
    heads = torch.arange(layer.module.num_heads, dtype=query.dtype, device=query.device)
    return Retention(decay=(1 - 2.0 ** (-5 - heads)).expand(query.shape[:2]), **parts)


def _mapped(layer: Captured, turn: Callable[[Tensor], Tensor] = identity) -> dict[str, Tensor]:
    """Queries and keys, through the layer's feature map where it has one, and values."""
    query, key = stream(layer, "q"), stream(layer, "k")
    function = layer.module.feature_map_fn
    if function is not None:
        if known_by(function) != "relu":
            raise UnreadableError(
                "its feature map is not relu, the only one that this adapter reads in its family"
            )
        query, key = query.relu(), key.relu()
    query = turn(query) * layer.module.head_k_dim**-0.5
    return {"query": query, "key": turn(key), "value": stream(layer, "v")}


def _leave_gla(layer: Captured, response: Tensor) -> Chain:
    module = layer.module
    fused, has_gate = module.fuse_norm_and_gate, getattr(module, "use_output_gate", True)
    gate = "silu" if fused else known_by(module.gate_fn) if has_gate else None
    norm = "g_norm_swish_gate" if fused else "g_norm"
    return leaving(layer, response, norm=norm, gate=gate)


def _linear(layer: Captured) -> LinearAttention:
    module = layer.module
    query, key = (by_own_code(layer, f"feature_map_{part}", stream(layer, part)) for part in "qk")
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


def _hgrn(layer: Captured) -> HGRN:
    bound, decay = layer.arguments.get("lower_bound"), convolved(layer, "f").sigmoid()
    if bound is not None and layer.module.layer_idx > 0:
        decay = bound + (1 - bound) * decay
    return HGRN(value=convolved(layer, "i", then="silu"), decay=decay)


def _hgrn2(layer: Captured) -> HGRN2:
    module, bound = layer.module, layer.arguments.get("lower_bound")
    decay = stream(layer, "f").sigmoid()
    if bound is not None and module.layer_idx > 0:
        least = rearrange(bound, "(head key) -> head 1 key", head=module.num_heads)
        decay = least + (1 - least) * decay
    query = silu(stream(layer, "q")) * module.head_f_dim**-0.5
    return HGRN2(query=query, value=stream(layer, "i"), decay=decay)


def _gsa(layer: Captured) -> GatedSlotAttention:
    module = layer.module
    kind = type(module.feature_map).__name__
    if kind not in SLOT_FEATURES:
        raise UnreadableError(f"its feature map {kind} is not known to this adapter")
    query, key = (stream(layer, part, then=SLOT_FEATURES[kind]) for part in "qk")
    raw = by_head(layer.project("f_proj", hidden(layer)), module.num_kv_heads)
    log_decay = shared_by(logsigmoid(raw) / module.gate_logit_normalizer, module.num_heads)
    return GatedSlotAttention(
        query=query * (module.head_k_dim**-0.5 if module.scale is None else module.scale),
        key=key,
        value=stream(layer, "v", then="silu"),
        slot_write=-log_decay.expm1(),
        log_decay=log_decay,
    )


def _leave_gsa(layer: Captured, response: Tensor) -> Chain:
    factor = secant(silu, response)
    norm = rms_factor(factor * response, epsilon=GSA_EPSILON)
    weight = layer.weights.get("g_norm.weight")
    norm = norm.expand_as(response) if weight is None else weight * norm
    return Chain((Scale(factor * norm), *put_out(layer, response)))


def _mesa_net(layer: Captured) -> ScalarGatedAttention:
    """Attention with one decay, whose query the kernel's steps of conjugate gradients returned.

    They do not solve for the query, but end about 1e-3 from the solution.
    """
    x = hidden(layer)
    key, rate = unit_length(stream(layer, "k")), layer.project("b_proj", x).sigmoid().mT
    log_decay = logsigmoid(layer.project("a_proj", x)).mT
    written = rate.unsqueeze(-1) * key
    return ScalarGatedAttention(
        query=_descended(layer, unit_length(stream(layer, "q")), key, written, log_decay),
        key=written,
        value=stream(layer, "v"),
        log_decay=log_decay,
    )


def _descended(
    layer: Captured, query: Tensor, key: Tensor, written: Tensor, log_decay: Tensor
) -> Tensor:
    module = layer.module
    ridge = softplus(layer.weights["lambda_params"]) + module.lambda_lower_bound
    ridge = ridge.unflatten(0, (module.num_heads, 1, -1))
    passed = log_decay.cumsum(dim=-1)
    fading = passed.unsqueeze(-1) - passed.unsqueeze(-2)
    ahead = torch.ones(fading.shape[-2:], dtype=torch.bool, device=fading.device).triu(1)
    fading = fading.masked_fill(ahead, -torch.inf).exp()

    def curved(direction: Tensor) -> Tensor:
        return (direction @ written.mT * fading) @ key + ridge * direction

    found, rest = torch.zeros_like(query), query
    direction, size = rest, rest.square().sum(dim=-1, keepdim=True)
    for _ in range(module.max_cg_step_training):
        bent = curved(direction)
        step = size / ((direction * bent).sum(dim=-1, keepdim=True) + DIVISOR)
        found, rest = found + step * direction, rest - step * bent
        new = rest.square().sum(dim=-1, keepdim=True)
        direction, size = rest + new / (size + DIVISOR) * direction, new
    return found


def _forgetting(layer: Captured) -> ForgettingAttention:
    log_decay = logsigmoid(layer.project("f_proj", hidden(layer)))
    for mask in masking(layer, log_decay):  # the first token behind padding reads none before it
        seen = mask.factor.bool()
        first = seen & ~pad(seen, (0, 0, 1, -1), value=True)
        log_decay = log_decay.masked_fill(first, -torch.inf)
    return ForgettingAttention(
        query=_normalised(layer, "q", "q_norm"),
        key=_normalised(layer, "k", "k_norm"),
        value=_heads(layer, layer.project("v_proj", hidden(layer))),
        log_decay=log_decay.mT,
    )


def _path(layer: Captured) -> PathAttention:
    x = hidden(layer)
    direction = through(layer, x, "w_proj", "w_proj.0", "w_proj.1")
    if layer.module.use_w_shortconv:
        direction = ACTIVATIONS["silu"](convolution(layer, "w_conv1d")(direction))
    faded = layer.module.use_forget_gate
    return PathAttention(
        query=_normalised(layer, "q", "maybe_q_norm"),
        key=_normalised(layer, "k", "maybe_k_norm"),
        value=_heads(layer, layer.project("v_proj", x)),
        direction=unit_length(_heads(layer, direction)),
        rate=_heads(layer, 2 * layer.project("bt_proj", x).sigmoid()).squeeze(-1),
        log_decay=logsigmoid(layer.project("g_proj", x)).mT if faded else None,
    )


def _normalised(layer: Captured, part: str, norm: str) -> Tensor:
    """Queries or keys in heads, each head through its norm if any."""
    is_shared = part != "q"
    x = _heads(layer, layer.project(f"{part}_proj", hidden(layer)), is_shared=is_shared)
    if f"{norm}.weight" not in layer.weights:
        return x
    weight = layer.weights[f"{norm}.weight"]
    if len(weight) > x.shape[-1]:  # the norm of a group for every head
        weight = _heads(layer, weight.expand(1, 1, -1), is_shared=is_shared)
    epsilon = epsilon_of(layer.module.get_submodule(norm))
    return weight * rms_norm(x, x.shape[-1:], eps=epsilon)


def _heads(layer: Captured, x: Tensor, *, is_shared: bool = True) -> Tensor:
    """``x`` in heads, each repeated for the query heads that read it."""
    heads = layer.module.num_heads
    return shared_by(by_head(x, layer.module.num_kv_heads if is_shared else heads), heads)


def _leave_attention(layer: Captured, response: Tensor) -> Chain:
    gate = "sigmoid" if getattr(layer.module, "use_output_gate", False) else None
    return leaving(layer, response, gate=gate)


_WHOLE = partial(leaving, norm="g_norm", heads=1)
"""Leaving by a norm over all channels."""

ADAPTERS = (
    fla_adapter("gla.GatedLinearAttention", _gla, leave=_leave_gla),
    fla_adapter("simple_gla.SimpleGatedLinearAttention", _simple_gla, leave=_leave_gla),
    fla_adapter(
        "multiscale_retention.MultiScaleRetention", _retention, leave=_leave_gla, family="retention"
    ),
    fla_adapter("linear_attn.LinearAttention", _linear, leave=partial(leaving, norm="norm")),
    fla_adapter(
        "hgrn.HGRNAttention",
        _hgrn,
        enter=partial(entering, part="i", then="silu"),
        leave=partial(_WHOLE, gate="silu"),
        axes=("sample", "channel"),
    ),
    fla_adapter("hgrn2.HGRN2Attention", _hgrn2, enter=partial(entering, part="i"), leave=_WHOLE),
    fla_adapter(
        "gsa.GatedSlotAttention", _gsa, enter=partial(entering, then="silu"), leave=_leave_gsa
    ),
    fla_adapter("mesa_net.MesaNet", _mesa_net, leave=leaving_gated),
    fla_adapter("forgetting_attn.ForgettingAttention", _forgetting, leave=_leave_attention),
    fla_adapter("path_attn.PaTHAttention", _path, leave=_leave_attention),
)
