"""Mamba's selective scan: mamba, falcon_mamba, jamba.

[x|z] = in_proj h        x' = act(conv x + b)        [τ|write|read] = x_proj x'
step = softplus(W_dt τ + b_dt)        output = out_proj((scan + D x') ⊙ SiLU(z))
"""

from torch import Tensor
from torch.nn.functional import silu, softplus

from dsf.inspection.adapter import Adapter
from dsf.inspection.captured import Captured
from dsf.inspection.pieces import activation, causal_convolution, masked, rms_normalised
from dsf.mixers import SelectiveStateSpace


def read(layer: Captured) -> SelectiveStateSpace:
    """The selective scan this layer ran."""
    x = _convolved(layer)
    states = layer.weights["A_log"].shape[-1]
    raw = layer.project("x_proj", x)
    rank = raw.shape[-1] - 2 * states
    tau, write, read_out = raw.split([rank, states, states], dim=-1)
    tau, write, read_out = _normalised(layer, tau, write, read_out)
    return SelectiveStateSpace(
        value=x,
        step=softplus(layer.project("dt_proj", tau)),
        pole=-layer.weights["A_log"].exp(),
        write=write,
        read=read_out,
        feedthrough=layer.weights["D"],
    )


def finish(layer: Captured, mixed: Tensor) -> Tensor:
    """Gate, then project."""
    response = mixed.squeeze((-2, -1)).mT
    return layer.project("out_proj", response * silu(_projected(layer)[1]))


def _projected(layer: Captured) -> tuple[Tensor, Tensor]:
    hidden = masked(layer, layer.arguments["hidden_states"])
    x, z = layer.project("in_proj", hidden).chunk(2, dim=-1)
    return x, z


def _convolved(layer: Captured) -> Tensor:
    x = causal_convolution(layer, "conv1d", _projected(layer)[0])
    return masked(layer, activation(layer)(x))


def _normalised(layer: Captured, *parts: Tensor) -> tuple[Tensor, ...]:
    """falcon_mamba normalises without weights, jamba with them, mamba not at all."""
    if layer.family == "falcon_mamba":
        return tuple(rms_normalised(part, epsilon=layer.module.rms_eps) for part in parts)
    if layer.family == "jamba":
        norms = ("dt_layernorm", "b_layernorm", "c_layernorm")
        return tuple(
            layer.weights[f"{norm}.weight"]
            * rms_normalised(part, epsilon=getattr(layer.module, norm).variance_epsilon)
            for norm, part in zip(norms, parts, strict=True)
        )
    return parts


ADAPTER = Adapter(
    families={
        "transformers.models.mamba.modeling_mamba.MambaMixer": "mamba",
        "transformers.models.falcon_mamba.modeling_falcon_mamba.FalconMambaMixer": "falcon_mamba",
        "transformers.models.jamba.modeling_jamba.JambaMambaMixer": "jamba",
    },
    read=read,
    finish=finish,
    axes=("sample", "channel"),
)
