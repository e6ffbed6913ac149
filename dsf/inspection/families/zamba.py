"""Reads Zamba's selective scan: Mamba's, with separate projections for every head.

The outputs of ``in_proj`` alternate between x and z. Each head has its own channels and weights:

x' = act(conv x + b)   [τ|write|read] = W_x x'   step = softplus(W_dt τ + b_dt)
output = out_proj((scan + D x') ⊙ SiLU(z))
"""

from torch import Tensor
from torch.nn.functional import softplus

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.families import mamba
from dsf.inspection.families.shared import by_head
from dsf.inspection.whole.stages import Chain
from dsf.mixers import SelectiveStateSpace


def read(layer: Captured) -> SelectiveStateSpace:
    """The selective scans of all heads of this layer."""
    weights = layer.weights
    x = by_head(mamba.entered(layer, _alternating), heads=weights["A_log"].shape[0])
    rank, states = weights["dt_proj_weight"].shape[-1], weights["A_log"].shape[-1]
    raw = x @ weights["x_proj_weight"].mT
    tau, write, read_out = raw.split([rank, states, states], dim=-1)
    bias = weights["dt_proj_bias"].unsqueeze(-2)
    return SelectiveStateSpace(
        value=x,
        step=softplus(tau @ weights["dt_proj_weight"].mT + bias),
        pole=-weights["A_log"].exp(),
        write=write,
        read=read_out,
        feedthrough=weights["D"],
        initial=mamba.first_state(layer),
    )


def enter(layer: Captured) -> Chain:
    """Projection, convolution and activation of the values."""
    return mamba.enter(layer, _alternating)


def leave(layer: Captured, response: Tensor) -> Chain:
    """The output gate, then the output projection."""
    return mamba.leave(layer, response, _alternating)


def _alternating(both: Tensor) -> tuple[Tensor, Tensor]:
    return both[..., 0::2], both[..., 1::2]


ADAPTER = Adapter(
    families={"transformers.models.zamba.modeling_zamba.ZambaMambaMixer": "zamba"},
    read=read,
    enter=enter,
    leave=leave,
    axes=("sample", "head", "channel"),
)
