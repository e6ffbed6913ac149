"""Reads memories of the ``fla`` package that solve or select: gsa and mesa_net.

gsa: value = SiLU(v), log decay of a slot = log σ(f) / normaliser, slot write = 1 - decay,
output = o_proj(w ⊙ RMS(SiLU(scan))), the norm over all heads
mesa_net: query and key of unit length, rate = σ(b), log decay = log σ(a), ridge = softplus(λ) +
bound, output = o_proj(w ⊙ RMS(scan) ⊙ SiLU(gate)), the norm over one head

The kernels of mesa_net do not solve for the query: they make some steps of conjugate gradients,
with 1e-5 added to what they divide by, which is about 1e-3 from the solution. The same steps are
made here, so that the layer is read as attention with one decay whose query they returned.

Source: flash-linear-attention 0.6.0, ``fla/layers/{gsa,mesa_net}.py``,
``fla/ops/mesa_net/chunk_cg_solver_fwd.py``.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, silu, softplus

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.errors import UnreadableError
from dsf.inspection.families.fla_shared import TOLERANCE, entering, hidden, leaving, put_out, stream
from dsf.inspection.families.shared import by_head, rms_factor, unit_length
from dsf.inspection.whole.stages import Chain, Scale, secant
from dsf.mixers import GatedSlotAttention, ScalarGatedAttention

SILU = "silu"
EPSILON = 1e-5
"""What the fused norm of gsa adds, whatever the layer's setting."""
DIVISOR = 1e-5
"""What the steps of mesa_net add to what they divide by."""
FEATURES = {"SwishFeatureMap": "silu", "ReLUFeatureMap": "relu"}


def read(layer: Captured) -> GatedSlotAttention | ScalarGatedAttention:
    """The memory this layer kept, according to its family."""
    return _gsa(layer) if layer.family == "gsa" else _mesa_net(layer)


def enter(layer: Captured) -> Chain:
    """Projection, convolution and activation of the values."""
    return entering(layer, then=SILU if layer.family == "gsa" else "linear")


def leave(layer: Captured, response: Tensor) -> Chain:
    """Activation or output gate, norm, output projection."""
    if layer.family == "mesa_net":
        gate = SILU if layer.module.use_output_gate else None
        return leaving(layer, response, norm="o_norm", heads=layer.module.num_heads, gate=gate)
    factor = secant(silu, response)
    norm = rms_factor(factor * response, epsilon=EPSILON)
    weight = layer.weights.get("g_norm.weight")
    norm = norm.expand_as(response) if weight is None else weight * norm
    return Chain((Scale(factor * norm), *put_out(layer, response)))


def _gsa(layer: Captured) -> GatedSlotAttention:
    module = layer.module
    kind = type(module.feature_map).__name__
    if kind not in FEATURES:
        raise UnreadableError(f"its feature map {kind} is not known to this adapter")
    query, key = (stream(layer, part, then=FEATURES[kind]) for part in "qk")
    raw = by_head(layer.project("f_proj", hidden(layer)), module.num_kv_heads)
    log_decay = (logsigmoid(raw) / module.gate_logit_normalizer).repeat_interleave(
        module.num_kv_groups, dim=1
    )
    return GatedSlotAttention(
        query=query * (module.head_k_dim**-0.5 if module.scale is None else module.scale),
        key=key,
        value=stream(layer, "v", then=SILU),
        slot_write=-log_decay.expm1(),
        log_decay=log_decay,
    )


def _mesa_net(layer: Captured) -> ScalarGatedAttention:
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
    """What the kernel's steps of conjugate gradients make of the query."""
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


ADAPTER = Adapter(
    families={
        "fla.layers.gsa.GatedSlotAttention": "gsa",
        "fla.layers.mesa_net.MesaNet": "mesa_net",
    },
    read=read,
    enter=enter,
    leave=leave,
    tolerance=TOLERANCE,
)
