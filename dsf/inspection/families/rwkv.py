"""Reads the time mixing of RWKV-4, 6 and 7, whoever wrote it.

RWKV-4: output = output(σ(receptance) ⊙ scan), where every part sees a fixed blend of its token with
the one before. Padding masks are ignored. The library rescales ``output`` at its first forward pass
in evaluation mode, so that weights are copied for the run they belong to.

RWKV-6: every part sees a blend that is computed from both tokens: μ + W₂ tanh(W₁ blend).
log decay = -exp(w)      output = output(GroupNorm(scan) ⊙ act(gate))

RWKV-7: the blends are parameters; values are blended with those of the first layer.
log decay = -exp(-1/2) σ(decay)      rate = σ(a)      key = k (1 + k_a (rate - 1))
removal = k_k k of unit length
output = output((GroupNorm(scan) + (query · r_k key) value) ⊙ gate)

The ``fla`` package has classes of the last two; the authors' own code (x060, x070) is known by its
parameters. Padding is set to zero before anything else, and writes nothing.

Source: Peng et al. 2024, arXiv:2404.05892; Peng et al. 2025, arXiv:2503.14456;
flash-linear-attention 0.6.0, ``fla/layers/{rwkv6,rwkv7}.py``.
"""

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import group_norm, normalize

from dsf.inspection.adapter import Adapter, Structure
from dsf.inspection.capture.calls import Captured
from dsf.inspection.capture.precision import in_float64
from dsf.inspection.errors import UnreadableError
from dsf.inspection.families import shared
from dsf.inspection.whole.stages import Chain, Filter, Scale
from dsf.mixers import RWKV4, RWKV6, RWKV7

SLOWEST = -math.exp(-0.5)
"""The log decay of RWKV-7 lies between this and zero, in nats per token."""


def _read4(layer: Captured) -> RWKV4:
    state, before = layer.arguments.get("state"), dict[str, Tensor]()
    if state is not None:  # of earlier tokens
        place, names = layer.module.layer_id, ("start", "start_total", "start_peak")
        sums = (in_float64(part[..., place]) for part in state[2:])
        before = dict(zip(names, sums, strict=True))
    return RWKV4(
        key=_projected4(layer, "key"),
        value=_projected4(layer, "value"),
        log_decay=-layer.weights["time_decay"].exp(),
        bonus=layer.weights["time_first"],
        **before,
    )


def _leave4(layer: Captured, _: Tensor) -> Chain:
    gate = _projected4(layer, "receptance").sigmoid()
    return Chain((Scale(gate), layer.projection("output")))


def _projected4(layer: Captured, name: str) -> Tensor:
    return _blended4(layer, name)(layer.arguments["hidden"])


def _blended4(layer: Captured, name: str) -> Chain:
    now = layer.weights[f"time_mix_{name}"].flatten()
    taps, state = torch.stack([1 - now, now], dim=-1), layer.arguments.get("state")
    before = None if state is None else in_float64(state[1][..., layer.module.layer_id])
    shift = Filter(taps, earlier=None if before is None else before.unsqueeze(-2))
    return Chain((shift, layer.projection(name)))


def _is_of_fla(layer: Captured) -> bool:
    return hasattr(layer.module, "x_bias")


def _blends6(x: Tensor, low: Tensor, back: Tensor, own: Tensor) -> Tensor:
    """What every part sees: ``part sample time model``."""
    shares = torch.einsum("stnr,nrc->nstc", low.tanh().unflatten(-1, (len(own), -1)), back)
    return x + (shared.earlier(x) - x) * (own[:, None, None] + shares)


def _parts6(layer: Captured) -> dict[str, Tensor]:
    """The recurrence's parts r, k, v, w and g, ``sample time (head channel)``."""
    if _is_of_fla(layer):
        return _parts6_of_fla(layer)
    x, weights = layer.arguments["x"], layer.weights
    low = (x + (shared.earlier(x) - x) * weights["time_maa_x"]) @ weights["time_maa_w1"]
    own = torch.stack([weights[f"time_maa_{name}"].flatten() for name in "wkvrg"])
    seen = dict(zip("wkvrg", _blends6(x, low, weights["time_maa_w2"], own), strict=True))
    names = {"r": "receptance", "k": "key", "v": "value", "g": "gate"}
    found = {part: layer.project(name, seen[part]) for part, name in names.items()}
    faded = (seen["w"] @ weights["time_decay_w1"]).tanh() @ weights["time_decay_w2"]
    return found | {"w": weights["time_decay"] + faded}


def _read6(layer: Captured) -> RWKV6:
    bonus = layer.weights["bonus" if _is_of_fla(layer) else "time_faaaa"]
    parts = _parts6(layer)
    query, key, value, decay = (shared.by_head(parts[name], len(bonus)) for name in "rkvw")
    return RWKV6(
        query=query,
        key=key,
        value=value,
        log_decay=-decay.exp(),
        bonus=bonus.expand(len(query), *bonus.shape),
    )


def _finish6(layer: Captured, mixed: Tensor) -> Tensor:
    norm, act, out = "ln_x", "silu", "output"
    if _is_of_fla(layer):
        norm, act, out = "g_norm", shared.known_by(layer.module.gate_fn), "o_proj"
    gate = shared.ACTIVATIONS[act](_parts6(layer)["g"])
    return layer.project(out, _normalised(layer, norm, mixed) * gate)


def _parts6_of_fla(layer: Captured) -> dict[str, Tensor]:
    x, weights = shared.hidden(layer), layer.weights
    low = layer.project("x_proj.0.linear", x + (shared.earlier(x) - x) * weights["x_proj.0.mu"])
    back = weights["x_proj.2.weight"].unflatten(-1, (len(weights["x_bias"]), -1)).permute(1, 2, 0)
    found = {
        name: shared.by_own_code(layer, f"{name}_proj.linear", seen)
        for name, seen in zip("rwkvg", _blends6(x, low, back, weights["x_bias"]), strict=True)
    }
    return found | {"v": shared.masked(layer, found["v"])}


def _read7(layer: Captured) -> RWKV7:
    weights = layer.weights
    heads, key = len(weights["r_k"]), layer.project("k_proj", _blended7(layer, "k"))
    rate = _low7(layer, "a").sigmoid()
    removal = shared.by_head(key * weights["k_k"], heads)
    fused = getattr(layer.module, "fuse_norm", False)
    removal = shared.unit_length(removal) if fused else normalize(removal, dim=-1)
    return RWKV7(
        query=shared.by_head(layer.project("r_proj", _blended7(layer, "r")), heads),
        key=shared.by_head(key * (1 + weights["k_a"] * (rate - 1)), heads),
        value=shared.by_head(_values7(layer), heads),
        log_decay=SLOWEST * shared.by_head(_low7(layer, "w", "tanh").sigmoid(), heads),
        removal=-removal,
        replacement=removal * shared.by_head(rate, heads),
    )


def _finish7(layer: Captured, mixed: Tensor) -> Tensor:
    """The norm of every head, what the token adds of its own value, output gate and projection."""
    mixer = _read7(layer)
    own = (mixer.query * layer.weights["r_k"].unsqueeze(1) * mixer.key).sum(dim=-1, keepdim=True)
    norm = "g_norm" if "g_norm.weight" in layer.weights else "ln_x"
    both = _normalised(layer, norm, mixed) + shared.side_by_side(own * mixer.value)
    return layer.project("o_proj", both * _low7(layer, "g", "sigmoid"))


def _values7(layer: Captured) -> Tensor:
    """The values; behind the first layer blended with those of the first."""
    module, value = layer.module, layer.project("v_proj", _blended7(layer, "v"))
    if getattr(module, "blends_values", getattr(module, "layer_idx", 0) != 0):
        several = {"v_first": None, **layer.arguments}
        found = (
            part
            for name, part in several.items()
            if name not in ("x", "hidden_states")
            and isinstance(part, Tensor)
            and part.shape == value.shape
        )
        first = next(found, None)
        if first is None:
            raise UnreadableError("it was not called with the values of the first layer")
        value = value.lerp(first, _low7(layer, "v").sigmoid())
    return shared.masked(layer, value)


def _low7(layer: Captured, part: str, act: str = "linear") -> Tensor:
    """The blend of a part through two factors of low rank, with ``act`` between them."""
    x, weights = _blended7(layer, part), layer.weights
    if f"{part}1" not in weights:
        return shared.by_own_code(layer, f"{part}_lora", x)
    found = shared.ACTIVATIONS[act](x @ weights[f"{part}1"]) @ weights[f"{part}2"]
    return found + weights[f"{part}0"] if f"{part}0" in weights else found


def _blended7(layer: Captured, name: str) -> Tensor:
    x = layer.arguments["x"] if "x" in layer.arguments else shared.hidden(layer)
    return x + (shared.earlier(x) - x) * layer.weights[f"x_{name}"]


def _normalised(layer: Captured, name: str, mixed: Tensor) -> Tensor:
    """The mixer's response through a group norm with a group for every head: all heads."""
    flat, epsilon = (
        shared.side_by_side(mixed.squeeze(-2)),
        shared.epsilon_of(layer.module.get_submodule(name)),
    )
    weight, bias = (layer.weights.get(f"{name}.{part}") for part in ("weight", "bias"))
    found = group_norm(flat.flatten(0, 1), mixed.shape[1], weight, bias, epsilon)
    return found.view_as(flat)


_ADAPTER4 = Adapter(
    families=shared.of_transformers(rwkv="RwkvSelfAttention"),
    read=_read4,
    enter=partial(_blended4, name="value"),
    leave=_leave4,
    takes="hidden",
    rewrites_weights=True,
    axes=("sample", "channel"),
)
ADAPTERS = (
    _ADAPTER4,
    shared.fla_adapter("rwkv6.RWKV6Attention", _read6, finish=_finish6),
    shared.fla_adapter("rwkv7.RWKV7Attention", _read7, finish=_finish7),
)


STRUCTURES = (
    Structure(
        title="RWKV-4",
        family="rwkv",
        adapter=replace(_ADAPTER4, rewrites_weights=False),
        parameters={
            "time_decay": "inner",
            "time_first": "inner",
            **{f"time_mix_{name}": "1 1 model" for name in ("key", "value", "receptance")},
            **{f"{name}.weight": "inner model" for name in ("key", "value", "receptance")},
            "output.weight": "model inner",
        },
        called={
            "time_mix_key": ("time_mix_k",),
            "time_mix_value": ("time_mix_v",),
            "time_mix_receptance": ("time_mix_r",),
        },
    ),
    Structure(
        title="RWKV-6",
        family="rwkv6",
        adapter=Adapter(families={}, read=_read6, finish=_finish6, takes="x"),
        parameters={
            **{f"time_maa_{name}": "1 1 model" for name in "xwkvrg"},
            "time_maa_w1": "model 5*low",
            "time_maa_w2": "5 low model",
            "time_decay": "1 1 inner",
            "time_decay_w1": "model rank",
            "time_decay_w2": "rank inner",
            "time_faaaa": "heads size",
            **{f"{name}.weight": "inner model" for name in ("receptance", "key", "value", "gate")},
            "output.weight": "model inner",
            "ln_x.weight": "inner",
        },
    ),
    Structure(
        title="RWKV-7",
        family="rwkv7",
        adapter=Adapter(families={}, read=_read7, finish=_finish7, takes="x"),
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
            **{f"{part}_proj.weight": "model model" for part in "rkvo"},
            "ln_x.weight": "model",
        },
        settings=lambda module, _: (
            {"blends_values": blends}
            for blends in (True, False)
            if hasattr(module, "v0") or not blends
        ),
        called={
            "r_proj": ("receptance",),
            "k_proj": ("key",),
            "v_proj": ("value",),
            "o_proj": ("output",),
        },
    ),
)
