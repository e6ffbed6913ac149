"""Reads the selective scans of Mamba and Mamba-2, by transformers and by the ``fla`` package.

Mamba: [x|z] = in_proj h      x' = act(conv x + b)      [τ|write|read] = x_proj x'
step = softplus(W_dt τ + b_dt)      output = out_proj((scan + D x') ⊙ SiLU(z))
Zamba: the same with projections for every head; x and z alternate among the outputs of ``in_proj``
Mamba-2: [z|x|write|read|dt] = in_proj h      [x|write|read] = act(conv · + b)
step = clamp(softplus(dt + dt_bias))      output = out_proj(norm(scan + D x, z))
log-linear Mamba-2: level scales besides, softplus(L dl) with dl behind dt; on graphics cards only

Padding is set to zero before ``in_proj`` and after the convolution. In Mamba, releases of
transformers up to 5.8 zero x after ``in_proj``, which differs where that has a bias, and gate with
``act``. The norm of Mamba-2 multiplies by the output gate first and then divides by the root mean
square of each group; falcon_h1 may divide first or have no norm.

Source: transformers; flash-linear-attention 0.6.0, ``fla/layers/log_linear_mamba2.py``.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, silu, softplus

from dsf.certificates import StoredLayer
from dsf.inspection.adapter import Adapter, Settings, Sizes, Structure, groups_of
from dsf.inspection.capture.calls import Captured
from dsf.inspection.families.shared import (
    TOLERANCE,
    activated,
    activation,
    by_head,
    convolution,
    epsilon_of,
    fla_adapter,
    head_norm,
    hidden,
    masked,
    masking,
    of_transformers,
    shared_by,
    some_rows,
    state_before,
)
from dsf.inspection.whole.stages import Chain, Scale, Stage
from dsf.mixers import LogLinearAttention, SelectiveStateSpace, StateSpaceDuality


def _read_mamba(layer: Captured) -> SelectiveStateSpace:
    weights, x = layer.weights, _projected_half(layer, 0)
    x = masked(layer, x) if _is_old(layer) else x
    x = masked(layer, activation(layer)(convolution(layer, "conv1d")(x)))
    # The library takes up a state of earlier tokens for a single token only.
    state, steps = state_before(layer), layer.arguments["hidden_states"].shape[1]
    states = weights["A_log"].shape[-1]
    if _is_zamba(layer):
        x = by_head(x, heads=len(weights["A_log"]))
        raw = x @ weights["x_proj_weight"].mT
    else:
        raw = layer.project("x_proj", x)
    parts = raw.tensor_split([-2 * states, -states], dim=-1)
    tau, write, read_out = _normalised(layer, parts)
    if _is_zamba(layer):
        step = tau @ weights["dt_proj_weight"].mT + weights["dt_proj_bias"].unsqueeze(-2)
    else:
        step = layer.project("dt_proj", tau)
    return SelectiveStateSpace(
        value=x,
        step=softplus(step),
        pole=-weights["A_log"].exp(),
        write=write,
        read=read_out,
        feedthrough=weights["D"],
        initial=state.unsqueeze(-1) if state is not None and steps == 1 else None,
    )


def _is_zamba(layer: Captured) -> bool:
    return "x_proj_weight" in layer.weights


def _x_and_z(layer: Captured, both: Tensor) -> tuple[Tensor, ...]:
    """x and z among the outputs of ``in_proj``, along the last axis."""
    return (both[..., 0::2], both[..., 1::2]) if _is_zamba(layer) else both.chunk(2, dim=-1)


def _normalised(layer: Captured, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Step, write and read after their norms: falcon_mamba's without weights, jamba's with them."""
    weights, module = layer.weights, layer.module
    if layer.family == "falcon_mamba":
        return tuple(rms_norm(part, part.shape[-1:], eps=module.rms_eps) for part in parts)
    for write, read_out in ("bc", "BC"):
        norms = "dt_layernorm", f"{write}_layernorm", f"{read_out}_layernorm"
        if all(f"{norm}.weight" in weights for norm in norms):
            epsilons = (epsilon_of(getattr(module, norm)) for norm in norms)
            return tuple(
                rms_norm(part, part.shape[-1:], weights[f"{norm}.weight"], epsilon)
                for norm, part, epsilon in zip(norms, parts, epsilons, strict=True)
            )
    return parts


def _enter_mamba(layer: Captured) -> Chain:
    x, mask = layer.arguments["hidden_states"], masking(layer, layer.arguments["hidden_states"])
    rows = some_rows(layer, "in_proj", lambda both: _x_and_z(layer, both)[0])
    before: tuple[Stage, ...] = (rows, *mask) if _is_old(layer) else (*mask, rows)
    return activated((*before, convolution(layer, "conv1d")), activation(layer), x, mask)


def _leave_mamba(layer: Captured, _: Tensor) -> Chain:
    gate = activation(layer) if _is_old(layer) else silu
    return Chain((Scale(gate(_projected_half(layer, 1))), layer.projection("out_proj")))


def _projected_half(layer: Captured, number: int) -> Tensor:
    """x, the first, of which the mixer is read, or z, which gates its response."""
    x = layer.arguments["hidden_states"]
    rows = some_rows(layer, "in_proj", lambda both: _x_and_z(layer, both)[number])
    return rows(x if _is_old(layer) else masked(layer, x))


def _is_old(layer: Captured) -> bool:
    return hasattr(layer.module, "slow_forward")


def _stored_channel(module: Any, arguments: Mapping[str, Any], channel: int) -> StoredLayer:
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


MAMBA = Adapter(
    families=of_transformers(
        mamba="MambaMixer", falcon_mamba="FalconMambaMixer", jamba="JambaMambaMixer"
    ),
    read=_read_mamba,
    enter=_enter_mamba,
    leave=_leave_mamba,
    axes=("sample", "channel"),
    stored=_stored_channel,
)
ZAMBA = replace(
    MAMBA,
    families=of_transformers(zamba="ZambaMambaMixer"),
    axes=("sample", "head", "channel"),
    stored=None,
)

CLAMPS_AT_THE_MINIMUM = {"nemotron_h", "zamba2"}
STEPS_ALONE = "mamba2_selective_state_update"
"""The function by which newer releases of transformers take a single token on from a cache."""


def _read_mamba2(layer: Captured) -> StateSpaceDuality:
    module = layer.module
    mixed, step, _ = _projected(layer, slice(1, None))
    mixed = masked(layer, activation(layer)(convolution(layer, "conv1d")(mixed)))
    shared = module.n_groups * module.ssm_state_size
    x, write, read_out = mixed.tensor_split([-2 * shared, -shared], dim=-1)
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


def _enter_mamba2(layer: Captured) -> Chain:
    x, (width, *_, levels) = layer.arguments["hidden_states"], _sizes(layer)
    mask, values = masking(layer, x), slice(width, 2 * width)
    rows = some_rows(layer, "in_proj", lambda rows: rows[..., values])
    tuned = layer.weights.get("mup_vector")
    after = () if tuned is None else (Scale(tuned.flatten()[values]),)
    factor = Scale(x.new_tensor(getattr(layer.module, "ssm_in_multiplier", 1.0)))
    again = mask if levels else ()  # of a bias of ``in_proj``
    linear = (*mask, factor, rows, *after, *again, convolution(layer, "conv1d", slice(width)))
    return activated(linear, activation(layer), x, mask)


def _leave_mamba2(layer: Captured, response: Tensor) -> Chain:
    factor = _gate_over_norm(layer, response, _projected(layer, slice(1))[0])
    return Chain((Scale(factor), layer.projection("out_proj")))


def _projected(layer: Captured, some: slice) -> Sequence[Tensor]:
    """Some of z, the input of the convolution, step size and levels before their softplus."""
    module, sizes = layer.module, _sizes(layer)

    def pick(rows: Tensor) -> Tensor:
        return torch.cat(rows.split(sizes, dim=-1)[some], dim=-1)

    x = hidden(layer) if sizes[-1] else masked(layer, layer.arguments["hidden_states"])
    if (factor := getattr(module, "ssm_in_multiplier", 1.0)) != 1.0:
        x = x * factor
    projected = some_rows(layer, "in_proj", pick)(x)
    if "mup_vector" in layer.weights:
        projected = projected * pick(layer.weights["mup_vector"])
    return projected.split(sizes[some], dim=-1)


def _sizes(layer: Captured) -> list[int]:
    module, mixed = layer.module, layer.weights["conv1d.weight"].shape[0]
    levels = module.num_heads * getattr(module, "num_lambda_dims", 0)  # of log-linear Mamba-2
    width = mixed - 2 * module.n_groups * module.ssm_state_size
    return [width, mixed, module.num_heads, levels]


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
    gate = silu(z)
    if "norm.weight" not in layer.weights:
        return gate
    norm = layer.module.norm
    first = getattr(norm, "norm_before_gate", getattr(layer.module, "norm_before_gate", False))
    x = response if first else response * gate
    return gate * head_norm(layer, "norm", x, _norm_groups(layer, x))


def _norm_groups(layer: Captured, x: Tensor) -> int:
    """The groups of the norm; before 5.16 most families have one of the whole width."""
    norm, width = layer.module.norm, x.shape[-1]
    groups: int = getattr(norm, "n_groups", None) or width // getattr(norm, "group_size", width)
    return groups


def _stored_head(module: Any, arguments: Mapping[str, Any], head: int) -> StoredLayer:
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


MAMBA2 = Adapter(
    families=of_transformers(
        mamba2="Mamba2Mixer",
        bamba="BambaMixer",
        falcon_h1="FalconH1Mixer",
        granitemoehybrid="GraniteMoeHybridMambaLayer",
        nemotron_h="NemotronHMamba2Mixer",
        zamba2="Zamba2MambaMixer",
    ),
    read=_read_mamba2,
    enter=_enter_mamba2,
    leave=_leave_mamba2,
    stored=_stored_head,
)


def _read_log_linear(layer: Captured) -> LogLinearAttention:
    module, weights = layer.module, layer.weights
    mixed, raw, levels = _projected(layer, slice(1, None))
    mixed = masked(layer, silu(convolution(layer, "conv1d")(masked(layer, mixed))))
    shared = module.n_groups * module.ssm_state_size
    x, write, query = mixed.tensor_split([-2 * shared, -shared], dim=-1)
    step = softplus(raw + weights["dt_bias"]).mT
    key, query = (
        shared_by(by_head(part, module.n_groups), module.num_heads) for part in (write, query)
    )
    return LogLinearAttention(
        query=query,
        key=step.unsqueeze(-1) * key,
        value=by_head(x, module.num_heads),
        log_decay=-weights["A_log"].exp().unsqueeze(-1) * step,
        level_scale=softplus(weights["L"].unsqueeze(1) * by_head(levels, module.num_heads)),
        feedthrough=weights["D"].expand(len(x), -1),
    )


ADAPTERS = (
    MAMBA,
    ZAMBA,
    MAMBA2,
    replace(MAMBA, families={"fla.layers.mamba.Mamba": "mamba"}, tolerance=TOLERANCE),
    replace(MAMBA2, families={"fla.layers.mamba2.Mamba2": "mamba2"}, tolerance=TOLERANCE),
    fla_adapter(
        "log_linear_mamba2.LogLinearMamba2",
        _read_log_linear,
        enter=_enter_mamba2,
        leave=_leave_mamba2,
    ),
)


def _settings(module: Any, sizes: Sizes) -> Iterator[Settings]:
    """Heads, groups and limits of a module of Mamba-2 that was written elsewhere.

    Of groups and states only the product is known from the parameters, and not whether the norm
    comes before the output gate.
    """
    shared, rest = divmod(sizes["mixed"] - sizes["inner"], 2)
    if rest or shared <= 0 or sizes["inner"] % sizes["heads"]:
        return
    names = "ngroups", "n_groups", "num_groups"
    groups = groups_of(module, names, sizes["heads"], shared, likely=1)
    for each, first in product(groups, (False, True)):
        yield {
            "num_heads": sizes["heads"],
            "n_groups": each,
            "ssm_state_size": shared // each,
            "time_step_limit": getattr(module, "dt_limit", (0.0, inf)),
            "norm_before_gate": first,
        }


STRUCTURES = (
    Structure(
        title="Mamba",
        family="mamba",
        adapter=MAMBA,
        parameters={
            "in_proj.weight": "2*inner model",
            "conv1d.weight": "inner 1 taps",
            "x_proj.weight": "rank+2*state inner",
            "dt_proj.weight": "inner rank",
            "A_log": "inner state",
            "D": "inner",
            "out_proj.weight": "model inner",
        },
    ),
    Structure(
        title="Mamba-2",
        family="mamba2",
        adapter=MAMBA2,
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
    ),
)
