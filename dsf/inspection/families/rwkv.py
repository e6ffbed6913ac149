"""RWKV-4's time mixing: projections of each token blended with the one before, then the scan.

output = output(σ(receptance) ⊙ scan)

Padding is ignored. The library rescales ``output`` at its first forward in evaluation mode, so the
weights belong to the run they are read in.
"""

import torch
from torch import Tensor

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.whole.stages import Chain, Filter, Scale
from dsf.mixers import RWKV4


def read(layer: Captured) -> RWKV4:
    """The scan this layer ran."""
    return RWKV4(
        key=_projected(layer, "key"),
        value=_projected(layer, "value"),
        log_decay=-layer.weights["time_decay"].exp(),
        bonus=layer.weights["time_first"],
    )


def enter(layer: Captured) -> Chain:
    """Blend every token with the one before, then project to values."""
    return _blended(layer, "value")


def leave(layer: Captured, _: Tensor) -> Chain:
    """Gate, then project."""
    gate = _projected(layer, "receptance").sigmoid()
    return Chain((Scale(gate), layer.projection("output")))


def _projected(layer: Captured, name: str) -> Tensor:
    return _blended(layer, name)(layer.arguments["hidden"])


def _blended(layer: Captured, name: str) -> Chain:
    now = layer.weights[f"time_mix_{name}"].flatten()
    return Chain((Filter(torch.stack([1 - now, now], dim=-1)), layer.projection(name)))


ADAPTER = Adapter(
    families={"transformers.models.rwkv.modeling_rwkv.RwkvSelfAttention": "rwkv"},
    read=read,
    enter=enter,
    leave=leave,
    takes="hidden",
    rewrites_weights=True,
    axes=("sample", "channel"),
)
