"""Reads linear recurrences, and the gated short convolution of lfm2, lfm2_moe and lfm3.

minimax: [q|k|v] = act(qkv_proj h), head by head      decay = exp(-slope_rate), one for each head
output = out_proj(σ(output_gate h) ⊙ w ⊙ RMS(scan)), the norm over all heads
xlstm: query = q / √d      gates = cap tanh(· / cap)
output = out_proj(σ(o) ⊙ (w LayerNorm(scan) + b)), the norm over one head
recurrent_gemma: value = conv(linear_x h) + b      r, input gate = σ(value W + c), block by block
log decay = -8 r softplus(recurrent_param)      output = linear_out(scan ⊙ act(linear_y h))
lfm2: [write gate|read gate|value] = in_proj h
output = out_proj(read gate ⊙ (filter(write gate ⊙ value) + b))
minGRU: update = σ(W_z h)      value = candidate(W_h h)      output = to_out(scan)
minLSTM: forget = σ(W_f h)     input = σ(W_i h)     value = candidate(W_h h)
LRU: radius exp(-exp(nu_log)), phase exp(theta_log), write exp(gamma_log) B, output Re(C h) + D u
S5: pole Lambda, step exp(log_step), by a zero-order hold or the trapezoidal rule
S4D: pole -exp(log_A_real) + i A_imag, step exp(log_dt), one for every channel, output
output_linear(GELU(2 Re(C h) + D u)) with a gated linear unit

In minimax padding is set to zero after the activation; older releases do so for the values only,
which changes the output of padding tokens alone. The other modules ignore padding masks. The state
of a cache is an argument of xlstm. In recurrent_gemma a token at position 0 starts a document and
resets the state. The candidate of minGRU and minLSTM is the projection itself, its tanh, or, where
the states are kept positive, ``x + 0.5`` for ``x >= 0`` and ``σ(x)`` below; both gates of minLSTM
may be divided by their sum; some write one projection for all. The last three are read by their
parameters alone. Their complex numbers are stored as such, as two parameters, or with an axis of
two; some double the real part. The input of S4D has its channels last or second.

Source: transformers; Feng et al. 2024, arXiv:2410.01201, sections 3 and B; Orvieto et al. 2023,
arXiv:2303.06349; Smith et al. 2022, arXiv:2208.04933; Gu et al. 2022, arXiv:2206.11893.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, glu, softplus

from dsf.inspection.adapter import Adapter, Structure, combinations
from dsf.inspection.capture.calls import Captured
from dsf.inspection.capture.precision import in_float64
from dsf.inspection.families import shared
from dsf.inspection.whole.stages import Centre, Chain, Filter, Project, Scale
from dsf.mixers import (
    LRU,
    MLSTM,
    RGLRU,
    S5,
    DiagonalStateSpace,
    MinGRU,
    MinLSTM,
    Retention,
    ShortConvolution,
)
from dsf.mixers.ingredients.recurrences import bilinear, zero_order_hold


def read_minimax(layer: Captured) -> Retention:
    qkv = layer.module.act_fn(layer.project("qkv_proj", layer.arguments["hidden_states"]))
    slope, kept = layer.weights["slope_rate"].flatten(), shared.masked(layer, qkv)
    # Releases with that function set queries and keys of padding to zero as well.
    file = sys.modules[type(layer.module).__module__]
    whole = kept if hasattr(file, "apply_mask_to_padding_states") else qkv
    query, key, _ = shared.by_head(whole, len(slope)).chunk(3, dim=-1)
    return Retention(
        query=query,
        key=key,
        value=shared.by_head(kept, len(slope)).chunk(3, dim=-1)[2],
        decay=(-slope).exp().expand(query.shape[:-2]),
        initial=shared.state_before(layer, "get_linear_cache"),
    )


def _enter_minimax(layer: Captured) -> Chain:
    x, heads = layer.arguments["hidden_states"], layer.weights["slope_rate"].numel()

    def values(qkv: Tensor) -> Tensor:
        return qkv.unflatten(-1, (heads, 3, -1))[..., 2, :].flatten(-2)

    rows = shared.some_rows(layer, "qkv_proj", values)
    return shared.activated((rows,), layer.module.act_fn, x, shared.masking(layer, x))


def _leave_minimax(layer: Captured, response: Tensor) -> Chain:
    gate = layer.project("output_gate", layer.arguments["hidden_states"]).sigmoid()
    factor = gate * shared.head_norm(layer, "norm", response, heads=1)
    return Chain((Scale(factor), layer.projection("out_proj")))


def _renew_minimax(module: Any) -> None:
    """Compute the decays between tokens of a block, which the module keeps, from its slopes."""
    decays = module.decay_factors(module.slope_rate)
    module.query_decay, module.key_decay, module.diagonal_decay = decays


MINIMAX = Adapter(
    families=shared.of_transformers(minimax="MiniMaxLightningAttention"),
    read=read_minimax,
    enter=_enter_minimax,
    leave=_leave_minimax,
    renew=_renew_minimax,
)


def _read_xlstm(layer: Captured) -> MLSTM:
    config, x = layer.module.config, layer.arguments["x"]
    query, key, value = (shared.by_head(_rows(layer, part)(x), config.num_heads) for part in "qkv")
    cap = config.gate_soft_cap
    if config.weight_mode == "fused":
        gates = layer.project("ifgate_preact", x).chunk(2, dim=-1)
    else:
        gates = tuple(layer.project(name, x) for name in ("igate_preact", "fgate_preact"))
    input_gate, forget_gate = (cap * (part / cap).tanh() for part in gates)
    state, before = layer.arguments.get("state"), {}
    if state is not None and any(part.any() for part in state):
        memory, total, peak = state
        before = {"start": memory, "start_total": total, "start_peak": peak.squeeze(-1)}
    return MLSTM(
        query=query * query.shape[-1] ** -0.5,
        key=key,
        value=value,
        input_gate=input_gate.mT,
        forget_gate=forget_gate.mT,
        epsilon=config.eps,
        **before,
    )


def _enter_xlstm(layer: Captured) -> Chain:
    """The projection of the values, less the mean over a head, which the later norm subtracts."""
    return Chain((_rows(layer, "v"), Centre(layer.module.config.num_heads)))


def _leave_xlstm(layer: Captured, response: Tensor) -> Chain:
    heads, norm = layer.module.config.num_heads, layer.module.multihead_norm
    spread = response.unflatten(-1, (heads, -1)).var(dim=-1, correction=0, keepdim=True)
    inverse = (spread + norm.eps).rsqrt().expand(*spread.shape[:-1], response.shape[-1] // heads)
    factor = layer.weights["multihead_norm.weight"] * inverse.flatten(-2)
    normalise = Scale(factor, layer.weights.get("multihead_norm.bias"))
    gate = Scale(_rows(layer, "o")(layer.arguments["x"]).sigmoid())
    return Chain((Centre(heads), normalise, gate, layer.projection("out_proj")))


def _rows(layer: Captured, part: str) -> Project:
    """The projection of queries, keys, values or (``o``) the output gate before its sigmoid."""
    if layer.module.config.weight_mode == "fused":
        keys, values = layer.module.qk_dim, layer.module.v_dim
        sizes, place = [keys, keys, values, values], "qkvo".index(part)
        return shared.some_rows(layer, "qkv_opreact", lambda x: x.split(sizes, dim=-1)[place])
    return layer.projection("ogate_preact" if part == "o" else part)


_XLSTM = Adapter(
    families=shared.of_transformers(xlstm="xLSTMLayer"),
    read=_read_xlstm,
    enter=_enter_xlstm,
    leave=_leave_xlstm,
    takes="x",
)

SHARPNESS = 8.0


def _read_griffin(layer: Captured) -> RGLRU:
    x = _enter_griffin(layer)(layer.arguments["input_states"])
    forgetting = softplus(layer.weights["rg_lru.recurrent_param"])
    log_decay = -SHARPNESS * _gate(layer, "recurrent_gate", x) * forgetting
    return RGLRU(
        value=x,
        decay=log_decay.exp(),
        input_gate=_gate(layer, "input_gate", x),
        reset=_reset(layer, x),
    )


def _enter_griffin(layer: Captured) -> Chain:
    if layer.weights["conv_1d.weight"].ndim > 2:
        filtered = shared.convolution(layer, "conv_1d")
    else:  # elsewhere the kernel lies ``taps width``
        filtered = Filter(layer.weights["conv_1d.weight"].mT, layer.weights["conv_1d.bias"])
    return Chain((layer.projection("linear_x"), filtered))


def _reset(layer: Captured, x: Tensor) -> Tensor | None:
    """Where a document starts; at the first token, or nowhere, where no positions are given."""
    first = getattr(layer.module, "first_position", "position_ids")
    if first in layer.arguments:
        return (layer.arguments[first] == 0).expand(x.shape[:-1])
    if not layer.module.resets:
        return None
    return (torch.arange(x.shape[1], device=x.device) == 0).expand(x.shape[:-1])


def _leave_griffin(layer: Captured, _: Tensor) -> Chain:
    act = getattr(layer.module, "act_fn", None) or partial(gelu, approximate="tanh")
    gate = act(layer.project("linear_y", layer.arguments["input_states"]))
    return Chain((Scale(gate), layer.projection("linear_out")))


def _gate(layer: Captured, name: str, x: Tensor) -> Tensor:
    weight, bias = (layer.weights[f"rg_lru.{name}_{part}"] for part in ("weight", "bias"))
    blocks = shared.by_head(x, weight.shape[0])
    return shared.side_by_side((blocks @ weight + bias.unsqueeze(-2)).sigmoid())


_GRIFFIN = Adapter(
    families=shared.of_transformers(recurrent_gemma="RecurrentGemmaRecurrentBlock"),
    read=_read_griffin,
    enter=_enter_griffin,
    leave=_leave_griffin,
    takes="input_states",
    axes=("sample", "channel"),
)


def _read_short(layer: Captured) -> ShortConvolution:
    hidden = shared.masked(layer, layer.arguments["hidden_states"])
    kernel = layer.weights["conv.weight"]
    write_gate, read_gate, value = layer.project("in_proj", hidden).chunk(3, dim=-1)
    held = shared.state_before(layer, "get_conv_state")  # sample channel taps
    return ShortConvolution(
        value=value,
        kernel=kernel.squeeze(1),
        bias=layer.weights.get("conv.bias"),
        write_gate=write_gate,
        read_gate=read_gate,
        earlier=None if held is None else held[..., -kernel.shape[-1] :],
    )


def _enter_short(layer: Captured) -> Chain:
    values = shared.some_rows(layer, "in_proj", lambda rows: rows.chunk(3, dim=-1)[2])
    return Chain((*shared.masking(layer, layer.arguments["hidden_states"]), values))


def _leave_short(layer: Captured, _: Tensor) -> Chain:
    return Chain((layer.projection("out_proj"),))


_SHORT = Adapter(
    families=shared.of_transformers(
        lfm2="Lfm2ShortConv", lfm2_moe="Lfm2MoeShortConv", lfm3="Lfm3ShortConv"
    ),
    read=_read_short,
    enter=_enter_short,
    leave=_leave_short,
    axes=("sample", "channel"),
)
ADAPTERS = (MINIMAX, _XLSTM, _GRIFFIN, _SHORT)


CANDIDATES: dict[str, Callable[[Tensor], Tensor]] = {
    "positive": lambda x: torch.where(x >= 0, x + 0.5, x.sigmoid()),
    "plain": lambda x: x,
    "tanh": torch.tanh,
}
JOINED = "to_hidden_and_gate"
"""One projection for the candidate and all gates."""


def _read_min_gru(layer: Captured) -> MinGRU:
    hidden, update = _candidate_and_gates(layer, "z")
    return MinGRU(value=hidden, update=update)


def _read_min_lstm(layer: Captured) -> MinLSTM:
    hidden, forget, input_gate = _candidate_and_gates(layer, "fi")
    normalised = layer.module.is_normalised
    return MinLSTM(value=hidden, forget=forget, input=input_gate, normalised=normalised)


def _leave_min(layer: Captured, _: Tensor) -> Chain:
    return Chain((layer.projection("to_out"),) if "to_out.weight" in layer.weights else ())


def _candidate_and_gates(layer: Captured, gates: str) -> list[Tensor]:
    """The candidate, and every gate after its sigmoid."""
    x, module = layer.arguments["x"], layer.module
    if f"{JOINED}.weight" in layer.weights:
        parts = layer.project(JOINED, x).chunk(1 + len(gates), dim=-1)
        named = dict(zip(module.order, parts, strict=True))
    else:
        named = {name: layer.project(f"linear_{name}", x) for name in f"h{gates}"}
    return [CANDIDATES[module.candidate](named["h"]), *(named[gate].sigmoid() for gate in gates)]


def _minimal(
    title: str, family: str, read: Any, orders: tuple[str, ...], **others: tuple[Any, ...]
) -> Iterator[Structure]:
    """A family with one projection for all, in one of several orders, and with one for each."""
    adapter = Adapter(
        families={}, read=read, leave=_leave_min, takes="x", axes=("sample", "channel")
    )
    called = {
        JOINED: ("to_hidden_and_f_i_gate", "to_hidden_and_gates") if len(orders[0]) > 2 else (),
        "linear_f": ("to_f", "W_f", "forget_gate"),
        "linear_i": ("to_i", "W_i", "input_gate"),
        "linear_h": ("to_h", "W_h", "candidate"),
    }

    every = combinations(candidate=CANDIDATES, order=orders, **others)
    first = combinations(candidate=CANDIDATES, order=orders[:1], **others)
    joined = {f"{JOINED}.weight": f"{'+'.join(['inner'] * len(orders[0]))} model"}
    apart = {f"linear_{name}.weight": "inner model" for name in orders[0]}
    yield Structure(title, family, adapter, joined, every, called)
    yield Structure(title, family, adapter, apart, first, called)


RULES = {"zero_order_hold": zero_order_hold, "bilinear": bilinear}


def _read_lru(layer: Captured) -> LRU:
    """The recurrence; the mixer scales its writes by the radius, the module by a parameter."""
    weights = layer.weights
    radius, phase = weights["nu_log"].flatten(), weights["theta_log"].flatten()
    own = (-torch.expm1(-2 * radius.exp())).sqrt()
    scale = weights["gamma_log"].flatten().exp() if "gamma_log" in weights else own
    write, read = _complex(layer, "B"), _complex(layer, "C")
    return LRU(
        value=layer.arguments["x"],
        log_radius=radius,
        log_phase=phase,
        write=(scale / own).unsqueeze(-1) * write,
        read=layer.module.real_factor * read,
        feedthrough=weights.get("D"),
    )


def _read_s5(layer: Captured) -> S5:
    """The state space; under the trapezoidal rule as the one of the same decays and gains."""
    weights, module = layer.weights, layer.module
    pole, step = _complex(layer, "Lambda").flatten(), weights["log_step"].flatten().exp()
    write = _complex(layer, "B")
    decay, gain = RULES[module.rule](pole, step)
    if module.rule != "zero_order_hold":
        pole = decay.log() / step
        held = zero_order_hold(pole, step)
        write = (gain / held.gain).unsqueeze(-1) * write
    return S5(
        value=layer.arguments["x"],
        pole=pole,
        write=write,
        read=module.real_factor * _complex(layer, "C"),
        step=step,
        feedthrough=weights.get("D"),
    )


def _read_s4d(layer: Captured) -> DiagonalStateSpace:
    weights, x = layer.weights, layer.arguments["x"]
    value = x if layer.module.is_channel_second else x.mT
    pole = torch.complex(-weights["log_A_real"].exp(), weights["A_imag"])
    batch = value.shape[:2]
    return DiagonalStateSpace(
        value=value.unsqueeze(-1),
        pole=pole.expand(*batch, -1),
        write=torch.ones_like(pole).expand(*batch, -1),
        read=_complex(layer, "C").expand(*batch, -1),
        step=weights["log_dt"].flatten().exp().expand(batch),
        feedthrough=weights["D"].expand(batch),
        discretise=RULES[layer.module.rule],
    )


def _finish_s4d(layer: Captured, mixed: Tensor) -> Tensor:
    """GELU and the gated linear unit, in the layout of the input."""
    response = gelu(mixed.squeeze((-2, -1)).mT)
    if "output_linear.0.weight" in layer.weights:
        weight = layer.weights["output_linear.0.weight"].squeeze(-1)
        response = response @ weight.mT + layer.weights["output_linear.0.bias"]
        response = glu(response, dim=-1)
    return response.mT if layer.module.is_channel_second else response


def _complex(layer: Captured, name: str) -> Tensor:
    """A complex parameter, however it is stored."""
    if f"{name}_im" in layer.weights:
        return torch.complex(layer.weights[name], layer.weights[f"{name}_im"])
    part = in_float64(layer.weights[name])
    if part.is_complex():
        return part.to(torch.complex128)
    return torch.view_as_complex(part.contiguous())


def _finish(_layer: Captured, mixed: Tensor) -> Tensor:
    return mixed.squeeze(-1)


def _adapter(read: Any, *axes: str, finish: Any = _finish) -> Adapter:
    return Adapter(families={}, read=read, finish=finish, takes="x", axes=axes)


def _inside(names: Iterable[str], *places: str) -> dict[str, tuple[str, ...]]:
    """The names that parameters have in a part of a module."""
    return {name: tuple(f"{place}.{name}" for place in places) for name in names}


POLES = ("Lambda_re", "seq.Lambda", "seq.Lambda_re", "ssm.Lambda", "ssm.Lambda_re")
VECTORS = {"B": "state input 2?", "C": "output state 2?"}
STRUCTURES = (
    Structure(
        title="the recurrent block of Griffin",
        family="recurrent_gemma",
        adapter=_GRIFFIN,
        parameters={
            "linear_x.weight": "inner model",
            "linear_y.weight": "inner model",
            "linear_out.weight": "model inner",
            "conv_1d.weight": "taps inner",
            "conv_1d.bias": "inner",
            "rg_lru.recurrent_param": "inner",
            **{f"rg_lru.{gate}_gate_weight": "blocks size size" for gate in ("input", "recurrent")},
            **{f"rg_lru.{gate}_gate_bias": "blocks size" for gate in ("input", "recurrent")},
        },
        settings=combinations(resets=(True, False), first_position=("segment_pos",)),
        called={
            "conv_1d.weight": ("conv_1d.w",),
            "conv_1d.bias": ("conv_1d.b",),
            "rg_lru.recurrent_param": ("rg_lru.a_param",),
            "rg_lru.input_gate_weight": ("rg_lru.input_gate.w", "rg_lru.input_gate.weight"),
            "rg_lru.input_gate_bias": ("rg_lru.input_gate.b", "rg_lru.input_gate.bias"),
            "rg_lru.recurrent_gate_weight": ("rg_lru.a_gate.w", "rg_lru.a_gate.weight"),
            "rg_lru.recurrent_gate_bias": ("rg_lru.a_gate.b", "rg_lru.a_gate.bias"),
        },
    ),
    *_minimal("minGRU", "min_gru", _read_min_gru, ("hz", "zh")),
    *_minimal("minLSTM", "min_lstm", _read_min_lstm, ("hfi", "fih"), is_normalised=(True, False)),
    Structure(
        "LRU",
        "lru",
        _adapter(_read_lru, "sample"),
        {"nu_log": "state", "theta_log": "state", **VECTORS},
        combinations(real_factor=(1, 2)),
        called={name: (f"{name}_re", f"{name}_real") for name in VECTORS}
        | {f"{name}_im": (f"{name}_imag",) for name in VECTORS},
    ),
    Structure(
        "S5",
        "s5",
        _adapter(_read_s5, "sample"),
        {"Lambda": "state", **VECTORS, "log_step": "state 1?"},
        combinations(real_factor=(1, 2), rule=RULES),
        called=_inside(("Lambda_im", "B", "C", "D", "log_step"), "seq", "ssm") | {"Lambda": POLES},
    ),
    Structure(
        "S4D",
        "s4d",
        _adapter(_read_s4d, "sample", "channel", finish=_finish_s4d),
        {
            "log_dt": "width",
            "log_A_real": "width state",
            "A_imag": "width state",
            "C": "width state 2",
            "D": "width",
        },
        combinations(is_channel_second=(True, False), rule=RULES),
        called=_inside(("log_dt", "log_A_real", "A_imag", "C"), "kernel"),
    ),
)
