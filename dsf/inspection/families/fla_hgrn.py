"""Reads HGRN of the ``fla`` package.

value = SiLU(i)      decay = σ(f), between a lower bound and one
output = o_proj(w ⊙ RMS(scan) ⊙ SiLU(gate)), the norm over all channels

Padding writes nothing.

Source: flash-linear-attention 0.6.0, ``fla/layers/hgrn.py``.
"""

from torch import Tensor

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.families.fla_shared import TOLERANCE, convolved, entering, leaving
from dsf.inspection.whole.stages import Chain
from dsf.mixers import HGRN

ACTIVATED = "silu"


def read(layer: Captured) -> HGRN:
    """The recurrence this layer ran."""
    bound, decay = layer.arguments.get("lower_bound"), convolved(layer, "f").sigmoid()
    if bound is not None and layer.module.layer_idx > 0:
        decay = bound + (1 - bound) * decay
    return HGRN(value=convolved(layer, "i", then=ACTIVATED), decay=decay)


def enter(layer: Captured) -> Chain:
    """Projection, convolution and activation of the values; padding is set to zero."""
    return entering(layer, "i", then=ACTIVATED)


def leave(layer: Captured, response: Tensor) -> Chain:
    """The norm over all channels, the output gate, then the output projection."""
    return leaving(layer, response, norm="g_norm", heads=1, gate="silu")


ADAPTER = Adapter(
    families={"fla.layers.hgrn.HGRNAttention": "hgrn"},
    read=read,
    enter=enter,
    leave=leave,
    tolerance=TOLERANCE,
    axes=("sample", "channel"),
)
