"""Reads linear recurrent units, S5 and S4D by their parameters; the model library has none of them.

LRU: radius exp(-exp(nu_log)), phase exp(theta_log), write exp(gamma_log) B, output Re(C h) + D u
S5: pole Lambda, step exp(log_step), by a zero-order hold or the trapezoidal rule
S4D: pole -exp(log_A_real) + i A_imag, step exp(log_dt), one for every channel, output
output_linear(GELU(2 Re(C h) + D u)) with a gated linear unit

Complex numbers are stored as such, as two parameters, or with an axis of two. Some double the real
part. The input of S4D has its channels last or second.

Source: Orvieto et al. 2023, arXiv:2303.06349; Smith et al. 2022, arXiv:2208.04933; Gu et al. 2022,
arXiv:2206.11893.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, glu

from dsf.inspection.adapter import Adapter, Structure, combinations
from dsf.inspection.capture.calls import Captured
from dsf.inspection.capture.precision import in_float64
from dsf.mixers import LRU, S5, DiagonalStateSpace
from dsf.mixers.ingredients.state_spaces import bilinear, zero_order_hold

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


def _finish(_layer: Captured, mixed: Tensor) -> Tensor:
    return mixed.squeeze(-1)


def _complex(layer: Captured, name: str) -> Tensor:
    """A complex parameter, however it is stored."""
    if f"{name}_im" in layer.weights:
        return torch.complex(layer.weights[name], layer.weights[f"{name}_im"])
    part = in_float64(layer.weights[name])
    if part.is_complex():
        return part.to(torch.complex128)
    return torch.view_as_complex(part.contiguous())


def _adapter(read: Any, **others: Any) -> Adapter:
    return Adapter(families={}, read=read, takes="x", **{"finish": _finish, **others})


def _inside(names: Iterable[str], *places: str) -> dict[str, tuple[str, ...]]:
    """The names that parameters have in a part of a module."""
    return {name: tuple(f"{place}.{name}" for place in places) for name in names}


POLES = ("Lambda_re", "seq.Lambda", "seq.Lambda_re", "ssm.Lambda", "ssm.Lambda_re")
VECTORS = {"B": "state input 2?", "C": "output state 2?"}
STRUCTURES = (
    Structure(
        "LRU",
        "lru",
        _adapter(_read_lru, axes=("sample",)),
        {"nu_log": "state", "theta_log": "state", **VECTORS},
        combinations(real_factor=(1, 2)),
        called={name: (f"{name}_re", f"{name}_real") for name in VECTORS}
        | {f"{name}_im": (f"{name}_imag",) for name in VECTORS},
    ),
    Structure(
        "S5",
        "s5",
        _adapter(_read_s5, axes=("sample",)),
        {"Lambda": "state", **VECTORS, "log_step": "state 1?"},
        combinations(real_factor=(1, 2), rule=RULES),
        called=_inside(("Lambda_im", "B", "C", "D", "log_step"), "seq", "ssm") | {"Lambda": POLES},
    ),
    Structure(
        "S4D",
        "s4d",
        _adapter(_read_s4d, finish=_finish_s4d, axes=("sample", "channel")),
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
