"""RWKV-7's recurrence from the parts that a layer computes, under whatever names it stores them.

log decay = -exp(-1/2) σ(decay)      key = k (1 + k_a (rate - 1))
output = output((GroupNorm(scan) + (query · r_k key) value) ⊙ gate)

Source: Peng et al. 2025, arXiv:2503.14456.

Reads RWKV-7's time mixing by its parameters; the model library has no class of it.

Every part sees a blend of its token with the one before; the values are blended with those of the
first layer.

decay = w0 + tanh(w) w2      rate = σ(a0 + a a2)      removal = k_k k of unit length
gate = σ(g) g2

Source: Peng et al. 2025, arXiv:2503.14456; the names are those of the authors' code (x070).
"""

import math
from collections.abc import Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.errors import UnreadableError
from dsf.inspection.families.shared import by_head, earlier, group_normalised, side_by_side
from dsf.inspection.families.structure import Settings, Sizes, Structure
from dsf.mixers import RWKV7

SLOWEST = -math.exp(-0.5)
"""The log decay lies between this and zero."""

Tokens = Float[Tensor, "sample time model"]


def recurrence(
    *,
    query: Tokens,
    key: Tokens,
    value: Tokens,
    decay: Tokens,
    rate: Tokens,
    key_rate: Float[Tensor, "*ones model"],
    removal: Float[Tensor, "sample head time key"],
) -> RWKV7:
    """The recurrence of all heads.

    Args:
        key: before it is scaled by the rate.
        decay: before its sigmoid.
        rate: of replacement, 0 to 1.
        key_rate: how far the rate scales the key, ``k_a``.
        removal: the key that is removed, of unit length.
    """
    heads = removal.shape[1]
    return RWKV7(
        query=by_head(query, heads),
        key=by_head(key * (1 + key_rate * (rate - 1)), heads),
        value=by_head(value, heads),
        log_decay=SLOWEST * by_head(decay.sigmoid(), heads),
        removal=-removal,
        replacement=removal * by_head(rate, heads),
    )


def own_values(mixer: RWKV7, r_k: Float[Tensor, "head key"]) -> Tokens:
    """What every token adds of its own value: ``(query · r_k key) value``."""
    own = (mixer.query * r_k.unsqueeze(1) * mixer.key).sum(dim=-1, keepdim=True)
    return side_by_side(own * mixer.value)


def read(layer: Captured) -> RWKV7:
    """The recurrence this layer ran."""
    weights = layer.weights
    key = layer.project("key", _blended(layer, "k"))
    removal = by_head(key * weights["k_k"], len(weights["r_k"]))
    return recurrence(
        query=layer.project("receptance", _blended(layer, "r")),
        key=key,
        value=_values(layer),
        decay=weights["w0"] + (_blended(layer, "w") @ weights["w1"]).tanh() @ weights["w2"],
        rate=(weights["a0"] + _low_rank(layer, "a", _blended(layer, "a"))).sigmoid(),
        key_rate=weights["k_a"],
        removal=normalize(removal, dim=-1),
    )


def finish(layer: Captured, mixed: Tensor) -> Tensor:
    """The norm of every head, what the token adds of itself, output gate, output projection."""
    weights, response = layer.weights, side_by_side(mixed.squeeze(-2))
    response = group_normalised(layer, "ln_x", response, heads=len(weights["r_k"]))
    gate = (_blended(layer, "g") @ weights["g1"]).sigmoid() @ weights["g2"]
    return layer.project("output", (response + own_values(read(layer), weights["r_k"])) * gate)


def _values(layer: Captured) -> Tensor:
    seen = _blended(layer, "v")
    value: Tensor = layer.project("value", seen)
    if not layer.module.blends_values:
        return value
    first = next(
        (
            part
            for name, part in layer.arguments.items()
            if name != "x" and isinstance(part, Tensor) and part.shape == value.shape
        ),
        None,
    )
    if first is None:
        raise UnreadableError("it was not called with the values of the first layer")
    return value.lerp(first, (layer.weights["v0"] + _low_rank(layer, "v", seen)).sigmoid())


def _low_rank(layer: Captured, name: str, x: Tensor) -> Tensor:
    return x @ layer.weights[f"{name}1"] @ layer.weights[f"{name}2"]


def _blended(layer: Captured, name: str) -> Tensor:
    x = layer.arguments["x"]
    return x + (earlier(x) - x) * layer.weights[f"x_{name}"]


def _settings(module: Any, _sizes: Sizes) -> Iterator[Settings]:
    if hasattr(module, "v0"):
        yield {"blends_values": True}
    yield {"blends_values": False}


STRUCTURE = Structure(
    title="RWKV-7",
    family="rwkv7",
    adapter=Adapter(families={}, read=read, finish=finish, takes="x"),
    parameters={
        **{f"x_{name}": "1 1 model" for name in "rwkvag"},
        "w0": "1 1 model",
        "w1": "model decays",
        "w2": "decays model",
        "a0": "1 1 model",
        "a1": "model rates",
        "a2": "rates model",
        "g1": "model outputs",
        "g2": "outputs model",
        "k_k": "1 1 model",
        "k_a": "1 1 model",
        "r_k": "heads size",
        "receptance.weight": "model model",
        "key.weight": "model model",
        "value.weight": "model model",
        "output.weight": "model model",
        "ln_x.weight": "model",
    },
    settings=_settings,
)
