"""Reads Mamba's selective scan: mamba, falcon_mamba, jamba, and mamba of the ``fla`` package.

[x|z] = in_proj h        x' = act(conv x + b)        [τ|write|read] = x_proj x'
step = softplus(W_dt τ + b_dt)        output = out_proj((scan + D x') ⊙ SiLU(z))

Padding is set to zero before ``in_proj`` and after the convolution. Releases up to 5.8 zero x after
``in_proj``, which differs where that has a bias, and gate with ``act``.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn.functional import silu, softplus

from dsf.certificates import StoredLayer
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.families.fla_shared import TOLERANCE
from dsf.inspection.families.shared import (
    activation,
    convolution,
    epsilon_of,
    masked,
    masking,
    rms_normalised,
    some_rows,
    state_before,
)
from dsf.inspection.families.structure import Structure
from dsf.inspection.whole.stages import Chain, Scale, Stage, secant
from dsf.mixers import SelectiveStateSpace

Halves = Callable[[Tensor], tuple[Tensor, Tensor]]


def _halves(both: Tensor) -> tuple[Tensor, Tensor]:
    x, z = both.chunk(2, dim=-1)
    return x, z


def read(layer: Captured) -> SelectiveStateSpace:
    """The selective scan this layer ran."""
    x = entered(layer)
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
        initial=first_state(layer),
    )


def first_state(layer: Captured) -> Tensor | None:
    """The state that a cache holds of earlier tokens; None from rest.

    The library takes it up for a single token only: it scans several from rest.
    """
    state, steps = state_before(layer), layer.arguments["hidden_states"].shape[1]
    return state.unsqueeze(-1) if state is not None and steps == 1 else None


def enter(layer: Captured, halves: Halves = _halves) -> Chain:
    """Projection, convolution, activation; padding is set to zero before and after."""
    hidden = layer.arguments["hidden_states"]
    x, mask = some_rows(layer, "in_proj", lambda both: halves(both)[0]), masking(layer, hidden)
    before: tuple[Stage, ...] = (x, *mask) if _is_old(layer) else (*mask, x)
    linear = Chain((*before, convolution(layer, "conv1d")))
    factor = secant(activation(layer), linear(hidden))
    return Chain((*linear, Scale(factor), *mask))


def entered(layer: Captured, halves: Halves = _halves) -> Tensor:
    """The values: the input of the scan."""
    x = halves(_projected(layer))[0]
    if _is_old(layer):
        x = masked(layer, x)
    return masked(layer, activation(layer)(convolution(layer, "conv1d")(x)))


def leave(layer: Captured, _: Tensor, halves: Halves = _halves) -> Chain:
    """The output gate, then the output projection."""
    gate = activation(layer) if _is_old(layer) else silu
    z = halves(_projected(layer))[1]
    return Chain((Scale(gate(z)), layer.projection("out_proj")))


def _projected(layer: Captured) -> Tensor:
    hidden = layer.arguments["hidden_states"]
    return layer.project("in_proj", hidden if _is_old(layer) else masked(layer, hidden))


def _is_old(layer: Captured) -> bool:
    return hasattr(layer.module, "slow_forward")


NORMS = (
    ("dt_layernorm", "b_layernorm", "c_layernorm"),
    ("dt_layernorm", "B_layernorm", "C_layernorm"),
)


def _normalised(layer: Captured, *parts: Tensor) -> tuple[Tensor, ...]:
    """Step, write and read after their norms: falcon_mamba's without weights, jamba's with them."""
    if layer.family == "falcon_mamba":
        return tuple(rms_normalised(part, epsilon=layer.module.rms_eps) for part in parts)
    for norms in NORMS:
        if all(f"{norm}.weight" in layer.weights for norm in norms):
            return tuple(
                layer.weights[f"{norm}.weight"]
                * rms_normalised(part, epsilon=epsilon_of(getattr(layer.module, norm)))
                for norm, part in zip(norms, parts, strict=True)
            )
    return parts


def run_numbers(module: Any, tokens: int) -> int:
    """Decays, sampled write vectors and driven states of all tokens: what plain torch code holds.

    A fused kernel holds none of them; whether one runs is not known before.
    """
    return 3 * tokens * module.A_log.numel()


def stored(module: Any, arguments: Mapping[str, Any], channel: int) -> StoredLayer:
    """The weights behind the map of one channel."""
    weights = {name: part.detach() for name, part in module.named_parameters()}
    inner, states = weights["A_log"].shape
    step_down, write, read_out = weights["x_proj.weight"].tensor_split([-2 * states, -states])
    taps = weights["conv1d.weight"].squeeze(1)
    return StoredLayer(
        "selective_state_space",
        {
            "A_log": weights["A_log"][channel],
            "D": weights["D"][channel : channel + 1],
            "convolution_bias": weights.get("conv1d.bias", taps.new_zeros(inner)),
            "convolution_weight": taps,
            "input": arguments["hidden_states"][0].detach(),
            "input_weight": weights["in_proj.weight"][:inner],
            "read_weight": read_out,
            "step_bias": weights["dt_proj.bias"][channel : channel + 1],
            "step_down_weight": step_down,
            "step_up_weight": weights["dt_proj.weight"][channel],
            "write_weight": write,
        },
    )


ADAPTER = Adapter(
    families={
        "transformers.models.mamba.modeling_mamba.MambaMixer": "mamba",
        "transformers.models.falcon_mamba.modeling_falcon_mamba.FalconMambaMixer": "falcon_mamba",
        "transformers.models.jamba.modeling_jamba.JambaMambaMixer": "jamba",
    },
    read=read,
    enter=enter,
    leave=leave,
    axes=("sample", "channel"),
    run_numbers=run_numbers,
    stored=stored,
)

FLA = replace(ADAPTER, families={"fla.layers.mamba.Mamba": "mamba"}, tolerance=TOLERANCE)

STRUCTURE = Structure(
    title="Mamba",
    family="mamba",
    adapter=ADAPTER,
    parameters={
        "in_proj.weight": "2*inner model",
        "conv1d.weight": "inner 1 taps",
        "x_proj.weight": "rank+2*state inner",
        "dt_proj.weight": "inner rank",
        "A_log": "inner state",
        "D": "inner",
        "out_proj.weight": "model inner",
    },
)
