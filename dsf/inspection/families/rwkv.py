"""Reads RWKV-4's time mixing: token shift, projections, then the scan.

The token shift blends each token with the one before it.

output = output(σ(receptance) ⊙ scan)

The module ignores padding masks. The library rescales ``output`` at its first forward pass in
evaluation mode, so that weights are copied for the run they belong to.
"""

from dataclasses import replace

import torch
from torch import Tensor

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.capture.precision import in_float64
from dsf.inspection.families.structure import Structure
from dsf.inspection.whole.stages import Chain, Filter, Scale
from dsf.mixers import RWKV4


def read(layer: Captured) -> RWKV4:
    """The scan this layer ran."""
    return RWKV4(
        key=_projected(layer, "key"),
        value=_projected(layer, "value"),
        log_decay=-layer.weights["time_decay"].exp(),
        bonus=layer.weights["time_first"],
        **_before(layer),
    )


def _before(layer: Captured) -> dict[str, Tensor]:
    """The sums that the state of the call holds of earlier tokens; empty without one."""
    state = layer.arguments.get("state")
    if state is None:
        return {}
    names = ("start", "start_total", "start_peak")
    place = layer.module.layer_id
    return {name: in_float64(part[..., place]) for name, part in zip(names, state[2:], strict=True)}


def enter(layer: Captured) -> Chain:
    """The token shift, then the projection of the values."""
    return _blended(layer, "value")


def leave(layer: Captured, _: Tensor) -> Chain:
    """The output gate, then the output projection."""
    gate = _projected(layer, "receptance").sigmoid()
    return Chain((Scale(gate), layer.projection("output")))


def _projected(layer: Captured, name: str) -> Tensor:
    return _blended(layer, name)(layer.arguments["hidden"])


def _blended(layer: Captured, name: str) -> Chain:
    now = layer.weights[f"time_mix_{name}"].flatten()
    taps, state = torch.stack([1 - now, now], dim=-1), layer.arguments.get("state")
    earlier = None if state is None else in_float64(state[1][..., layer.module.layer_id])
    shift = Filter(taps, earlier=None if earlier is None else earlier.unsqueeze(-2))
    return Chain((shift, layer.projection(name)))


ADAPTER = Adapter(
    families={"transformers.models.rwkv.modeling_rwkv.RwkvSelfAttention": "rwkv"},
    read=read,
    enter=enter,
    leave=leave,
    takes="hidden",
    rewrites_weights=True,
    axes=("sample", "channel"),
)

STRUCTURE = Structure(
    title="RWKV-4",
    family="rwkv",
    adapter=replace(ADAPTER, rewrites_weights=False),
    parameters={
        "time_decay": "inner",
        "time_first": "inner",
        "time_mix_key": "1 1 model",
        "time_mix_value": "1 1 model",
        "time_mix_receptance": "1 1 model",
        "key.weight": "inner model",
        "value.weight": "inner model",
        "receptance.weight": "inner model",
        "output.weight": "model inner",
    },
    called={
        "time_mix_key": ("time_mix_k",),
        "time_mix_value": ("time_mix_v",),
        "time_mix_receptance": ("time_mix_r",),
    },
)
