"""Reads RWKV-6's time mixing by its parameters; the model library has no class of it.

Every part sees a blend of its token with the one before: μ + W₂ tanh(W₁ blend).

log decay = -exp(time_decay + W₂ tanh(W₁ w))      bonus = time_faaaa
output = output(GroupNorm(scan) ⊙ SiLU(gate))

Source: Peng et al. 2024, arXiv:2404.05892; the names are those of the authors' code (x060).
"""

import torch
from torch import Tensor
from torch.nn.functional import silu

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.families.shared import by_head, earlier, group_normalised, side_by_side
from dsf.inspection.families.structure import Structure
from dsf.mixers import RWKV6

PARTS = "wkvrg"


def read(layer: Captured) -> RWKV6:
    """The recurrence this layer ran."""
    weights, seen = layer.weights, _blended(layer)
    bonus = weights["time_faaaa"]
    raw = (seen["w"] @ weights["time_decay_w1"]).tanh() @ weights["time_decay_w2"]
    query, key, value, decay = (
        by_head(part, len(bonus))
        for part in (
            layer.project("receptance", seen["r"]),
            layer.project("key", seen["k"]),
            layer.project("value", seen["v"]),
            weights["time_decay"] + raw,
        )
    )
    return RWKV6(
        query=query,
        key=key,
        value=value,
        log_decay=-decay.exp(),
        bonus=bonus.expand(len(query), *bonus.shape),
    )


def finish(layer: Captured, mixed: Tensor) -> Tensor:
    """The norm of every head, the output gate, then the output projection."""
    response = side_by_side(mixed.squeeze(-2))
    heads = len(layer.weights["time_faaaa"])
    gate = silu(layer.project("gate", _blended(layer)["g"]))
    return layer.project("output", group_normalised(layer, "ln_x", response, heads=heads) * gate)


def _blended(layer: Captured) -> dict[str, Tensor]:
    x, weights = layer.arguments["x"], layer.weights
    change = earlier(x) - x
    low = ((x + change * weights["time_maa_x"]) @ weights["time_maa_w1"]).tanh()
    low = low.unflatten(-1, (len(PARTS), -1))
    found = torch.einsum("stnr,nrc->nstc", low, weights["time_maa_w2"])
    return {
        name: x + change * (weights[f"time_maa_{name}"] + part)
        for name, part in zip(PARTS, found, strict=True)
    }


STRUCTURE = Structure(
    title="RWKV-6",
    family="rwkv6",
    adapter=Adapter(families={}, read=read, finish=finish, takes="x"),
    parameters={
        "time_maa_x": "1 1 model",
        **{f"time_maa_{name}": "1 1 model" for name in PARTS},
        "time_maa_w1": "model 5*low",
        "time_maa_w2": "5 low model",
        "time_decay": "1 1 inner",
        "time_decay_w1": "model rank",
        "time_decay_w2": "rank inner",
        "time_faaaa": "heads size",
        "receptance.weight": "inner model",
        "key.weight": "inner model",
        "value.weight": "inner model",
        "gate.weight": "inner model",
        "output.weight": "model inner",
        "ln_x.weight": "inner",
    },
)
