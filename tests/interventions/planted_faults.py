"""Faults planted in one layer of a copy of a model: the kinds that engines have had."""

# ruff: noqa: ARG001  (functions take what those take that they replace)

import copy
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

Plant = Callable[[nn.Module], None]


def planted(model: nn.Module, path: str, plant: Plant, dtype: torch.dtype) -> nn.Module:
    """A copy of a model in a number type, with a fault in the module at ``path``."""
    fork = copy.deepcopy(model).to(dtype)
    plant(fork.get_submodule(path))
    return fork


def while_it_runs(name: str, change: Callable[..., Any]) -> Plant:
    """Let a function of the modelling file be another one while the module runs."""

    def plant(module: nn.Module) -> None:
        plain, known = module.forward, vars(sys.modules[type(module).__module__])

        def forward(*args: Any, **named: Any) -> Any:
            original = known[name]
            known[name] = lambda *a, **k: change(original, *a, **k)
            try:
                return plain(*args, **named)
            finally:
                known[name] = original

        module.forward = forward

    return plant


def arguments_changed(change: Callable[[dict[str, Any]], None]) -> Plant:
    """Change the named arguments with which the module is called."""

    def plant(module: nn.Module) -> None:
        plain = module.forward

        def forward(*args: Any, **named: Any) -> Any:
            change(named)
            return plain(*args, **named)

        module.forward = forward

    return plant


def rounded(part: Tensor) -> Tensor:
    return part.to(torch.bfloat16).to(part.dtype)


# mamba: selective_scan(x, dt, A, B, C, D, z, delta_bias, delta_softplus)
def scan_with_rounded_state(  # noqa: PLR0917 (those of the function that it replaces)
    scan, x, dt, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, **named
):
    kind = x.dtype
    dt = softplus(dt.float() + delta_bias.float()[..., None])
    x, B, C = x.float(), B.float(), C.float()
    state, outputs = torch.zeros(*x.shape[:2], A.shape[-1]), []
    for t in range(x.shape[-1]):
        keep = torch.exp(A.float() * dt[..., t, None])
        state = rounded(keep * state + dt[..., t, None] * B[:, None, :, t] * x[..., t, None])
        outputs.append((state * C[:, None, :, t]).sum(-1))
    out = torch.stack(outputs, dim=-1) + x * D[None, :, None]
    return (out * silu(z.float())).to(kind)


def scan_with_rounded_step(scan, x, dt, *rest, delta_bias, delta_softplus, **named):
    dt = softplus(dt + delta_bias.to(dt.dtype)[..., None])
    return scan(x, rounded(dt.float()), *rest, **named)


# mamba2: chunk_scan(x, dt, A, B, C, chunk_size=, D=, dt_bias=)
def chunks_with_rounded_state(scan, x, dt, A, B, C, *, chunk_size, D, dt_bias, **named):
    kind, heads = x.dtype, x.shape[2]
    dt = softplus(dt.float() + dt_bias.float())
    x, B, C = x.float(), *(p.float().repeat_interleave(heads // p.shape[2], 2) for p in (B, C))
    state, outputs = torch.zeros(x.shape[0], heads, x.shape[3], B.shape[3]), []
    for t in range(x.shape[1]):
        step = dt[:, t, :, None, None]
        keep = torch.exp(A.float()[:, None, None] * step)
        state = rounded(keep * state + step * x[:, t, :, :, None] * B[:, t, :, None])
        outputs.append((state * C[:, t, :, None]).sum(-1) + D.float()[:, None] * x[:, t])
    return torch.stack(outputs, dim=1).to(torch.float32 if kind != torch.float64 else kind)


def chunks_with_rounded_step(scan, x, dt, *rest, dt_bias, dt_softplus, **named):
    return scan(x, rounded(softplus(dt + dt_bias.to(dt.dtype)).float()), *rest, **named)


def without_feedthrough(scan, *args, D=None, **named):
    return scan(*args, D=None, **named)


def off_by_one(segment_sum, values):
    found = segment_sum(values)
    return torch.where(torch.eye(found.shape[-1], dtype=torch.bool), -torch.inf, found)


# gated delta rule
def delta_with_rounded_state(rule, query, key, value, *, g, beta, **named):
    kind = query.dtype
    query, key, value, g, beta = (p.transpose(1, 2).float() for p in (query, key, value, g, beta))
    query, key = (p * torch.rsqrt(p.square().sum(-1, keepdim=True) + 1e-6) for p in (query, key))
    query = query * query.shape[-1] ** -0.5
    state, outputs = torch.zeros(*key.shape[:2], key.shape[-1], value.shape[-1]), []
    for t in range(key.shape[2]):
        state = state * g[:, :, t, None, None].exp()
        held = (state * key[:, :, t, :, None]).sum(-2)
        new = (value[:, :, t] - held) * beta[:, :, t, None]
        state = rounded(state + key[:, :, t, :, None] * new[:, :, None])
        outputs.append((state * query[:, :, t, :, None]).sum(-2))
    return torch.stack(outputs, dim=1).to(kind), None


def delta_with(name: str) -> Callable[..., Any]:
    def change(rule, *args, **named):
        return rule(*args, **{**named, name: rounded(named[name].float())})

    return change


def heads_in_the_wrong_order(rule, query, key, value, **named):
    times = value.shape[2] // key.shape[2]
    return rule(query.repeat(1, 1, times, 1), key.repeat(1, 1, times, 1), value, **named)


# everything
def scaled(function, *args, **named):
    result = function(*args, **named)
    if isinstance(result, tuple):
        return result[0] * (1 + 2**-7), *result[1:]
    return result * (1 + 2**-7)


def state_dropped(update, state, *args, **named):
    state.zero_()
    return update(state, *args, **named)


def delta_state_dropped(rule, *args, initial_state=None, **named):
    return rule(*args, initial_state=torch.zeros_like(initial_state), **named)


def window_lost(update, x, window, *args, **named):
    window.zero_()
    return update(x, window, *args, **named)


def padding_kept(mask, states, *_):
    return states


def rotary_late(named):
    named["position_embeddings"] = tuple(p.roll(1, 1) for p in named["position_embeddings"])


def cache_dropped(named):
    named["cache"] = None


def mask_dropped(named):
    named["attention_mask"] = None


def keys_rounded(rotate, *args, **named):
    query, key = rotate(*args, **named)
    return query, rounded(key)


def larger_epsilon(module):
    module.variance_epsilon = 1e-3


MIXERS = {
    "llama": "model.layers.1.self_attn",
    "mamba": "backbone.layers.2.mixer",
    "mamba2": "backbone.layers.2.mixer",
    "qwen3_next": "model.layers.1.linear_attn",
}
SCAN = {
    "mamba": "mamba_selective_scan",
    "mamba2": "mamba2_chunk_scan",
    "qwen3_next": "torch_chunk_gated_delta_rule",
}
UPDATE = {
    "mamba": ("mamba_selective_state_update", state_dropped),
    "mamba2": ("mamba2_selective_state_update", state_dropped),
    "qwen3_next": ("torch_recurrent_gated_delta_rule", delta_state_dropped),
}
DECODED, PADDED, WHOLE = "decoded", "padded", "whole"


def _faults() -> list[tuple[str, str, str, Plant, str, tuple[str, ...]]]:
    rounded_state = {
        "mamba": scan_with_rounded_state,
        "mamba2": chunks_with_rounded_state,
        "qwen3_next": delta_with_rounded_state,
    }
    found: list[tuple[str, str, str, Plant, str, tuple[str, ...]]] = []
    for family, scan in SCAN.items():
        at = MIXERS[family]
        rows = [
            ("state rounded", while_it_runs(scan, rounded_state[family]), WHOLE, ("state",)),
            ("scaled", while_it_runs(scan, scaled), WHOLE, ("read-out", "output", "norm")),
            ("state dropped", while_it_runs(*UPDATE[family]), DECODED, ("state",)),
            (
                "window lost",
                while_it_runs("causal_conv1d_update", window_lost),
                DECODED,
                ("convolution",),
            ),
            (
                "padding kept",
                while_it_runs("apply_mask_to_padding_states", padding_kept),
                PADDED,
                ("projection", "convolution", "gates", "state"),
            ),
        ]
        found += [(family, kind, at, plant, run, stages) for kind, plant, run, stages in rows]
    found += [
        (
            family,
            "step rounded",
            MIXERS[family],
            while_it_runs(SCAN[family], change),
            WHOLE,
            ("gates",),
        )
        for family, change in (
            ("mamba", scan_with_rounded_step),
            ("mamba2", chunks_with_rounded_step),
            ("qwen3_next", delta_with("g")),
        )
    ]
    found += [
        (
            family,
            "no feedthrough",
            MIXERS[family],
            while_it_runs(SCAN[family], without_feedthrough),
            WHOLE,
            ("read-out",),
        )
        for family in ("mamba", "mamba2")
    ]
    found += [
        (
            "mamba2",
            "mask off by one",
            MIXERS["mamba2"],
            while_it_runs("segment_sum", off_by_one),
            WHOLE,
            ("state", "read-out"),
        ),
        (
            "qwen3_next",
            "rate rounded",
            MIXERS["qwen3_next"],
            while_it_runs(SCAN["qwen3_next"], delta_with("beta")),
            WHOLE,
            ("gates",),
        ),
    ]
    for family, at in (("llama", MIXERS["llama"]), ("qwen3_next", "model.layers.2.self_attn")):
        found += [
            (family, "rotary late", at, arguments_changed(rotary_late), WHOLE, ("rotary",)),
            (
                family,
                "keys rounded",
                at,
                while_it_runs("apply_rotary_pos_emb", keys_rounded),
                WHOLE,
                ("rotary", "projection"),
            ),
            (family, "cache dropped", at, arguments_changed(cache_dropped), DECODED, ("read-out",)),
            (family, "padding kept", at, arguments_changed(mask_dropped), PADDED, ("read-out",)),
        ]
    for family, norm in (
        ("llama", "model.layers.1.post_attention_layernorm"),
        ("mamba", "backbone.layers.2.norm"),
        ("mamba2", "backbone.layers.2.norm"),
        ("qwen3_next", "model.layers.1.linear_attn.norm"),
    ):
        found.append((family, "epsilon", norm, larger_epsilon, WHOLE, ("norm",)))
    return found


FIRST = {DECODED: 34, PADDED: 0, WHOLE: 0}
"""The first token that differs, of 40 with 5 of padding, the last 6 decoded."""
FAULTS = [(*fault, FIRST[fault[4]]) for fault in _faults()]
