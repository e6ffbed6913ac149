"""Reads Mamba-2's scan: mamba2, bamba, granitemoehybrid, falcon_h1, nemotron_h, zamba2, fla.

[z|x|write|read|dt] = in_proj h      [x|write|read] = act(conv · + b)
step = clamp(softplus(dt + dt_bias))      output = out_proj(norm(scan + D x, z))

The norm multiplies by the output gate first and then divides by the root mean square of each group;
falcon_h1 may divide first or have no norm.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import inf
from typing import Any

from torch import Tensor
from torch.nn.functional import silu, softplus

from dsf.certificates import StoredLayer
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.families.fla_shared import TOLERANCE
from dsf.inspection.families.shared import (
    LONE_PADDING,
    activation,
    by_head,
    convolution,
    epsilon_of,
    masked,
    masking,
    rms_factor,
    some_rows,
    state_before,
)
from dsf.inspection.families.structure import Settings, Sizes, Structure
from dsf.inspection.whole.stages import Chain, Scale, secant
from dsf.mixers import StateSpaceDuality

CLAMPS_AT_THE_MINIMUM = {"nemotron_h", "zamba2"}
STEPS_ALONE = "mamba2_selective_state_update"
"""The function by which newer releases of transformers take a single token on from a cache."""
WRONG_BEFORE_5_16 = (
    "Releases of transformers before 5.16 get this layer wrong on a CPU as soon as a sequence is "
    "longer than one chunk, and up to 5.0 where there is padding: upgrade transformers."
)


def read(layer: Captured) -> StateSpaceDuality:
    """The scan this layer ran."""
    module = layer.module
    _, mixed, step = _projected(layer)
    mixed = masked(layer, activation(layer)(convolution(layer, "conv1d")(mixed)))
    width, shared = _width(layer), module.n_groups * module.ssm_state_size
    x, write, read_out = mixed.split([width, shared, shared], dim=-1)
    low, high = _limits(layer)
    step = softplus(step + layer.weights["dt_bias"]).clamp(low, high)
    return StateSpaceDuality(
        value=by_head(x, module.num_heads),
        step=step.mT,
        pole=-layer.weights["A_log"].exp(),
        write=by_head(write, module.n_groups),
        read=by_head(read_out, module.n_groups),
        feedthrough=layer.weights["D"],
        initial=None if (state := state_before(layer)) is None else state.mT,
    )


def enter(layer: Captured) -> Chain:
    """Projection, convolution, activation; padding is set to zero before and after."""
    hidden, width = layer.arguments["hidden_states"], _width(layer)
    gate, mask = layer.weights["in_proj.weight"].shape[0] - _rest(layer), masking(layer, hidden)
    x = some_rows(layer, "in_proj", lambda rows: rows[..., gate : gate + width])
    tuned = layer.weights.get("mup_vector")
    after = () if tuned is None else (Scale(tuned.flatten()[gate : gate + width]),)
    before = (*mask, Scale(hidden.new_tensor(getattr(layer.module, "ssm_in_multiplier", 1.0))))
    linear = Chain((*before, x, *after, convolution(layer, "conv1d", slice(width))))
    return Chain((*linear, Scale(secant(activation(layer), linear(hidden))), *mask))


def leave(layer: Captured, response: Tensor) -> Chain:
    """Output gate and norm as one factor, then the output projection."""
    factor = _gate_over_norm(layer, response, _projected(layer)[0])
    return Chain((Scale(factor), layer.projection("out_proj")))


def _projected(layer: Captured) -> tuple[Tensor, Tensor, Tensor]:
    """z, the input of the convolution, and the step size before its softplus."""
    hidden = masked(layer, layer.arguments["hidden_states"])
    if (factor := getattr(layer.module, "ssm_in_multiplier", 1.0)) != 1.0:
        hidden = hidden * factor
    projected = layer.project("in_proj", hidden)
    if "mup_vector" in layer.weights:
        projected = projected * layer.weights["mup_vector"]
    heads, rest = layer.module.num_heads, _rest(layer)
    z, mixed, step = projected.split([projected.shape[-1] - rest, rest - heads, heads], dim=-1)
    return z, mixed, step


def _rest(layer: Captured) -> int:
    """The number of outputs of ``in_proj`` that are not z."""
    return layer.weights["conv1d.weight"].shape[0] + layer.module.num_heads


def _width(layer: Captured) -> int:
    shared = layer.module.n_groups * layer.module.ssm_state_size
    return layer.weights["conv1d.weight"].shape[0] - 2 * shared


def _limits(layer: Captured) -> tuple[float, float]:
    """The limits of the step size; older releases of two families name the lower one otherwise.

    Where a single token continues a cache, newer releases do not limit its step.
    """
    tokens = layer.arguments["hidden_states"].shape[-2]
    file = vars(sys.modules[type(layer.module).__module__])
    if tokens == 1 and STEPS_ALONE in file and state_before(layer) is not None:
        return -inf, inf
    if layer.family in CLAMPS_AT_THE_MINIMUM and hasattr(layer.module, "time_step_min"):
        return layer.module.time_step_min, inf
    low, high = getattr(layer.module, "time_step_limit", None) or layer.module.dt_limit
    return low, high


def _gate_over_norm(layer: Captured, response: Tensor, z: Tensor) -> Tensor:
    weight, gate = layer.weights.get("norm.weight"), silu(z)
    if weight is None:
        return gate
    norm = layer.module.norm
    first = getattr(norm, "norm_before_gate", getattr(layer.module, "norm_before_gate", False))
    return weight * gate * _norm_factor(layer, response if first else response * gate)


def _norm_factor(layer: Captured, x: Tensor) -> Tensor:
    """The norm's factor, by group; before 5.16 most families have one group of the whole width."""
    norm = layer.module.norm
    groups = getattr(norm, "n_groups", None) or x.shape[-1] // getattr(
        norm, "group_size", x.shape[-1]
    )
    factor = rms_factor(x.unflatten(-1, (groups, -1)), epsilon=epsilon_of(norm))
    return factor.squeeze(-1).repeat_interleave(x.shape[-1] // groups, dim=-1)


def stored(module: Any, arguments: Mapping[str, Any], head: int) -> StoredLayer:
    """The weights behind the map of one head; its group's rows write and read."""
    weights = {name: part.detach() for name, part in module.named_parameters()}
    heads, groups, states = module.num_heads, module.n_groups, module.ssm_state_size
    taps = weights["conv1d.weight"].squeeze(1)
    bias = weights.get("conv1d.bias", taps.new_zeros(len(taps)))
    rows, steps = weights["in_proj.weight"][-len(taps) - heads :].split([len(taps), heads])
    first = len(taps) - 2 * groups * states + head // (heads // groups) * states
    write, read_out = (slice(at, at + states) for at in (first, first + groups * states))
    return StoredLayer(
        "state_space_duality",
        {
            "A_log": weights["A_log"][head : head + 1],
            "D": weights["D"][head : head + 1],
            "input": arguments["hidden_states"][0].detach(),
            "read_bias": bias[read_out],
            "read_convolution": taps[read_out],
            "read_weight": rows[read_out],
            "step_bias": weights["dt_bias"][head : head + 1],
            "step_weight": steps[head],
            "write_bias": bias[write],
            "write_convolution": taps[write],
            "write_weight": rows[write],
        },
    )


CHUNK = 64  # the library's path on a processor takes work and memory in proportion to its chunks


def hasten(module: Any) -> None:
    """Shorter chunks, of which the scan does not depend."""
    if getattr(module, "chunk_size", 0) > CHUNK:
        module.chunk_size = CHUNK


ADAPTER = Adapter(
    families={
        "transformers.models.mamba2.modeling_mamba2.Mamba2Mixer": "mamba2",
        "transformers.models.bamba.modeling_bamba.BambaMixer": "bamba",
        "transformers.models.falcon_h1.modeling_falcon_h1.FalconH1Mixer": "falcon_h1",
        "transformers.models.granitemoehybrid.modeling_granitemoehybrid"
        ".GraniteMoeHybridMambaLayer": "granitemoehybrid",
        "transformers.models.nemotron_h.modeling_nemotron_h.NemotronHMamba2Mixer": "nemotron_h",
        "transformers.models.zamba2.modeling_zamba2.Zamba2MambaMixer": "zamba2",
    },
    read=read,
    enter=enter,
    leave=leave,
    hasten=hasten,
    stored=stored,
    advice={
        **dict.fromkeys(("mamba2", "bamba", "falcon_h1", "granitemoehybrid"), LONE_PADDING),
        **dict.fromkeys(("nemotron_h", "zamba2"), WRONG_BEFORE_5_16),
    },
)

FLA = replace(ADAPTER, families={"fla.layers.mamba2.Mamba2": "mamba2"}, tolerance=TOLERANCE)


def _settings(module: Any, sizes: Sizes) -> Iterator[Settings]:
    """Heads, groups and limits of a module that was written elsewhere.

    Of groups and states only the product is known from the parameters, and not whether the norm
    comes before the output gate.
    """
    shared, rest = divmod(sizes["mixed"] - sizes["inner"], 2)
    if rest or shared <= 0 or sizes["inner"] % sizes["heads"]:
        return
    named = [getattr(module, name, None) for name in ("ngroups", "n_groups", "num_groups")]
    groups = [each for each in named if isinstance(each, int)] or [1]
    groups += [each for each in range(1, shared + 1) if shared % each == 0]
    for each in dict.fromkeys(groups):
        if sizes["heads"] % each or shared % each:
            continue
        for first in (False, True):
            yield {
                "num_heads": sizes["heads"],
                "n_groups": each,
                "ssm_state_size": shared // each,
                "time_step_limit": getattr(module, "dt_limit", (0.0, inf)),
                "norm_before_gate": first,
            }


STRUCTURE = Structure(
    title="Mamba-2",
    family="mamba2",
    adapter=ADAPTER,
    parameters={
        "in_proj.weight": "inner+mixed+heads model",
        "conv1d.weight": "mixed 1 taps",
        "A_log": "heads",
        "dt_bias": "heads",
        "D": "heads",
        "norm.weight": "inner",
        "out_proj.weight": "model inner",
    },
    settings=_settings,
)
