"""The state-space and recurrent rows of the paper's table of systems."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from dsf.claims.dynamical_systems.direct_formulas import constant, expanded, gated, selective
from dsf.claims.dynamical_systems.drawn import normal, uniform
from dsf.claims.dynamical_systems.paper_form import Form, stacked
from dsf.mixers import LRU, RGLRU, S4, S5, QuasiLSTM, SelectiveStateSpace, StateSpaceDuality
from dsf.systems.system import System
from dsf.systems.transition import Diagonal

STEPS, MODEL, STATES = 14, 4, 3


def selective_forms() -> Iterator[Form]:
    """S6, and the state-space duality with one, two and four heads."""
    rng = np.random.default_rng(0)
    u = normal(rng, STEPS, MODEL)
    write, read = u @ normal(rng, MODEL, STATES), u @ normal(rng, MODEL, STATES)
    step = softplus(u @ normal(rng, MODEL, MODEL))
    rate, skip = uniform(rng, MODEL, STATES, low=0.2, high=2.0), normal(rng, MODEL)
    mamba = SelectiveStateSpace(
        value=u, step=step, pole=-rate, write=write, read=read, feedthrough=skip
    )
    direct = selective(u, step, rate, write, read) + skip * u
    yield Form("S6", stacked(mamba.system(), channels=1), u, direct)
    for heads in (1, 2, 4):
        width = MODEL // heads
        duality = StateSpaceDuality(
            value=u.unflatten(-1, (heads, width)).transpose(0, 1),
            step=step[:, :heads].T,
            pole=-rate[:heads, 0],
            write=write.unsqueeze(0),
            read=read.unsqueeze(0),
            feedthrough=skip[:heads],
        )
        shared = step[:, :heads].repeat_interleave(width, dim=-1)
        slow = rate[:heads, :1].repeat_interleave(width, dim=0).expand(MODEL, STATES)
        direct = selective(u, shared, slow, write, read)
        direct = direct + skip[:heads].repeat_interleave(width) * u
        form = stacked(duality.system(), channels=width)
        yield Form(f"state-space duality, {heads} heads", form, u, direct)


def gated_forms() -> Iterator[Form]:
    """The quasi-LSTM and its variant, the RG-LRU and its state expansion."""
    rng = np.random.default_rng(1)
    u, W = normal(rng, STEPS, MODEL), normal(rng, MODEL, MODEL)
    x = u @ W.T
    z, enter, leave = (u @ normal(rng, MODEL, MODEL) for _ in range(3))
    power = normal(rng).abs()
    gates = {"input": enter.sigmoid(), "output": leave.sigmoid()}
    forgets = {
        "quasi-LSTM": (z.sigmoid(), 1 / (1 + (-z).exp())),
        "quasi-LSTM, S6 transition": ((-z).sigmoid() ** power.relu(), (-power * softplus(z)).exp()),
    }
    for name, (forget, spelled) in forgets.items():
        lstm = QuasiLSTM(value=x, forget=forget, **gates)
        form = stacked(lstm.system(), channels=1, projection=W)
        yield Form(name, form, u, gated(x, spelled, gates["input"], gates["output"]))
    decay = (-8 * softplus(normal(rng, MODEL) - 3) * z.sigmoid()).exp()
    unit = RGLRU(value=x, decay=decay, input_gate=gates["input"])
    scaled = (1 - decay.square()).sqrt() * gates["input"]
    form = stacked(unit.system(), channels=1, projection=W)
    yield Form("RG-LRU", form, u, gated(x, decay, scaled, torch.ones_like(x)))
    write, read = normal(rng, 2, STEPS, STATES)
    slow = (-8 * softplus(normal(rng, MODEL, STATES) - 3) * z.sigmoid().unsqueeze(-1)).exp()
    system = _expanded(slow.transpose(0, 1), write, read)
    direct = expanded(x, slow, write, read)
    yield Form("RG-LRU, expanded state", stacked(system, channels=1, projection=W), u, direct)


def _expanded(decay: Tensor, write: Tensor, read: Tensor) -> System:
    scaled = ((1 - decay) * (1 + decay)).sqrt() * write
    return System.from_write_and_read(Diagonal(decay), scaled, read.expand_as(scaled))


def constant_forms() -> Iterator[Form]:
    """S4, S5 and the LRU."""
    rng = np.random.default_rng(2)
    u, skip = normal(rng, STEPS, MODEL), normal(rng, MODEL)
    pole = torch.complex(
        -uniform(rng, STATES, low=0.1, high=1.0), uniform(rng, STATES, low=-3.0, high=3.0)
    )
    B, C = _complex(rng, STATES, MODEL), _complex(rng, MODEL, STATES)
    step = uniform(rng, STATES, low=0.1, high=0.7)
    s5 = S5(value=u, pole=pole, write=B, read=C, step=step, feedthrough=skip)
    held = ((step * pole).exp() - 1) / pole
    direct = constant(u, torch.diag((step * pole).exp()), torch.diag(held) @ B, C)
    yield Form("S5", s5.system(), u, direct + skip * u)
    radius, phase = normal(rng, 2, STATES) - 1
    lru = LRU(value=u, log_radius=radius, log_phase=phase, write=B, read=C, feedthrough=skip)
    decay = torch.complex(-radius.exp(), phase.exp()).exp()
    scale = (1 - decay.abs().square()).sqrt().to(B.dtype)
    direct = constant(u, torch.diag(decay), torch.diag(scale) @ B, C)
    yield Form("LRU", lru.system(), u, direct + skip * u)
    left, right = 0.5 * _complex(rng, 2, STATES)
    steps = uniform(rng, MODEL, low=0.1, high=0.5)
    s4 = S4(
        value=u.T.unsqueeze(-1),
        pole=pole,
        low_rank_left=left,
        low_rank_right=right,
        write=B[:, 0],
        read=C[0],
        step=steps,
        feedthrough=skip,
    )
    A = torch.diag(pole) + torch.outer(left, right.conj())
    columns = [
        constant(u[:, k : k + 1], *_bilinear(A, B[:, :1], float(steps[k])), C[:1])
        for k in range(MODEL)
    ]
    direct = torch.cat(columns, dim=-1) + skip * u
    yield Form("S4", stacked(s4.system(), channels=1), u, direct)


def _complex(rng: np.random.Generator, *size: int) -> Tensor:
    return torch.complex(normal(rng, *size), normal(rng, *size))


def _bilinear(A: Tensor, B: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """(1 - step/2 A)^-1 (1 + step/2 A) and (1 - step/2 A)^-1 step B."""
    one = torch.eye(len(A), dtype=A.dtype)
    inverse = torch.linalg.inv(one - step / 2 * A)
    return inverse @ (one + step / 2 * A), step * inverse @ B
