"""Reads gated DeltaProduct of the ``fla`` package: several delta rules at every token.

query = q / |q| / √dk      key = k / |k|, several at every token, as the values
rate = σ(b), twice that where negative eigenvalues are allowed
log decay = -exp(A_log) softplus(a + dt_bias), one per head, before the first rule of a token
output = o_proj(w ⊙ RMS(scan) ⊙ SiLU(gate)), the norm over one head

Source: flash-linear-attention 0.6.0, ``fla/layers/gated_deltaproduct.py``.
"""

from einops import rearrange
from torch import Tensor

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.families.fla_shared import (
    TOLERANCE,
    convolved,
    decay_of_heads,
    hidden,
    leaving,
    shared_by,
    stream,
)
from dsf.inspection.families.shared import side_by_side, unit_length
from dsf.mixers import GatedDeltaProduct


def read(layer: Captured) -> GatedDeltaProduct:
    """The delta rules this layer ran."""
    x, module = hidden(layer), layer.module
    rate = layer.project("b_proj", x).sigmoid() * (2 if module.allow_neg_eigval else 1)
    query = stream(layer, "q", bare="silu")
    return GatedDeltaProduct(
        query=shared_by(unit_length(query), module.num_v_heads) * module.head_k_dim**-0.5,
        key=shared_by(unit_length(_micro(layer, "k", module.num_heads)), module.num_v_heads),
        value=_micro(layer, "v", module.num_v_heads),
        rate=rearrange(rate, "sample time (micro head) -> sample head time micro", **_size(layer)),
        log_decay=decay_of_heads(layer, x) if module.use_forget_gate else None,
    )


def finish(layer: Captured, mixed: Tensor) -> Tensor:
    """The norm of every head, the output gate, then the output projection."""
    response = side_by_side(mixed.squeeze(-2))
    gate = "silu" if layer.module.use_output_gate else None
    chain = leaving(layer, response, norm="o_norm", heads=layer.module.num_v_heads, gate=gate)
    return chain(response)


def _micro(layer: Captured, part: str, heads: int) -> Tensor:
    """Keys or values as they reach the kernel: ``sample head time micro channel``."""
    x = convolved(layer, part, bare="silu")
    shape = "sample time (micro head channel) -> sample head time micro channel"
    return rearrange(x, shape, head=heads, **_size(layer))


def _size(layer: Captured) -> dict[str, int]:
    return {"micro": layer.module.num_householder}


ADAPTER = Adapter(
    families={"fla.layers.gated_deltaproduct.GatedDeltaProduct": "gated_deltaproduct"},
    read=read,
    finish=finish,
    tolerance=TOLERANCE,
)
