"""Reads Comba of the ``fla`` package: a delta rule that erases at another vector than it writes to.

query = (q - D σ(decay) k) of unit length / √dk      key = k / |k|
removal = σ(decay) k of unit length, compared with the state before it decays
rate = σ(b)      log decay = -exp(A_log) softplus(a + dt_bias), one per head
output = o_proj(w ⊙ RMS(scan) ⊙ σ(gate)), the norm over one head

Source: flash-linear-attention 0.6.0, ``fla/layers/comba.py``, ``fla/ops/comba/fused_recurrent.py``.
"""

from torch import Tensor

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
)
from dsf.inspection.families.shared import unit_length
from dsf.inspection.whole.stages import Chain
from dsf.mixers import Comba


def read(layer: Captured) -> Comba:
    """The delta rule this layer ran."""
    x, module = hidden(layer), layer.module
    query, key = stream(layer, "q", bare="silu"), stream(layer, "k", bare="silu")
    removal = key
    if module.use_inner_decay:
        removal = layer.weights["decay"].sigmoid()[:, None, None] * key
    if module.use_output_correction:
        query = query - layer.weights["D"][:, None, None] * removal
    query, key, removal = (
        shared_by(unit_length(part), module.num_v_heads) for part in (query, key, removal)
    )
    log_decay = decay_of_heads(layer, x)
    return Comba(
        query=query * module.head_k_dim**-0.5,
        key=key,
        removal=removal * (-log_decay).exp().unsqueeze(-1),
        value=stream(layer, "v", bare="silu"),
        rate=layer.project("b_proj", x).sigmoid().mT,
        log_decay=log_decay,
    )


def enter(layer: Captured) -> Chain:
    """Projection, convolution and activation of the values."""
    return entering(layer, bare="silu")


def leave(layer: Captured, response: Tensor) -> Chain:
    """The norm of every head, the output gate, then the output projection."""
    gate = "sigmoid" if layer.module.use_output_gate else None
    return leaving(layer, response, norm="o_norm", heads=layer.module.num_v_heads, gate=gate)


ADAPTER = Adapter(
    families={"fla.layers.comba.Comba": "comba"},
    read=read,
    enter=enter,
    leave=leave,
    tolerance=TOLERANCE,
)
