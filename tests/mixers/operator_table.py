"""The operators of the kernel libraries, each as the three matrices of its own equation.

    S_t = A_t S_{t-1} + B_t v_tᵀ        o_t = S_tᵀ C_t

Every A_t is a full matrix here and the state is walked token by token, so nothing is shared with
the structures that the mixers use. Operators whose states are slots, levels or the whole past are
walked by the loops in ``tests/references``.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from tests.mixers.mixer_fields import snake

Matrices = tuple[Tensor, Tensor, Tensor]


def outer(a: Tensor, b: Tensor) -> Tensor:
    return a[..., :, None] * b[..., None, :]


def eye(m: Any) -> Tensor:
    return torch.eye(m.key.shape[-1], dtype=m.key.dtype).expand(*m.key.shape, -1)


def walked(m: Any, matrices: Matrices) -> Tensor:
    """The loop itself."""
    A, B, C = matrices
    state = torch.zeros(*B.shape[:-2], B.shape[-1], m.value.shape[-1], dtype=B.dtype)
    out = []
    for t in range(m.value.shape[-2]):
        state = A[..., t, :, :] @ state + outer(B[..., t, :], m.value[..., t, :])
        out.append(torch.einsum("...n,...nc->...c", C[..., t, :], state))
    return torch.stack(out, dim=-2)


def normalised(features: Callable[[Tensor], Tensor], epsilon: float) -> Callable[[Any], Tensor]:
    """Linear attention whose denominator, with its epsilon, is summed up token by token."""

    def loop(m: Any) -> Tensor:
        out, q, k = [], features(m.query), features(m.key)
        for t in range(q.shape[-2]):
            scores = torch.stack([(q[..., t, :] * k[..., j, :]).sum(-1) for j in range(t + 1)], -1)
            weights = scores / (scores.sum(-1, keepdim=True) + epsilon)
            out.append(torch.einsum("...j,...jc->...c", weights, m.value[..., : t + 1, :]))
        return torch.stack(out, dim=-2)

    return loop


def taylor(x: Tensor) -> Tensor:
    one = torch.ones_like(x[..., :1])
    return torch.cat([one, x, outer(x, x).flatten(-2) / 2**0.5], dim=-1)


def scalar(m: Any) -> Tensor:
    return m.log_decay.exp()[..., None, None] * eye(m)


def diagonal(m: Any) -> Tensor:
    return torch.diag_embed(m.log_decay.exp())


def corrected(m: Any, removal: Tensor) -> Tensor:
    """What a write at the key leaves of the state: ``I - β k pᵀ``."""
    return eye(m) - outer(m.rate[..., None] * m.key, removal)


def gated_twice(m: Any) -> Tensor:
    A = (eye(m) - outer(m.key, m.erase_gate * m.key)) @ diagonal(m)
    return walked(replace(m, value=m.write_gate * m.value), (A, m.key, m.query))


def mesa(m: Any) -> Tensor:
    held, solved = torch.zeros_like(eye(m)[..., 0, :, :]), []
    for t in range(m.key.shape[-2]):
        k = m.key[..., t, :]
        held = m.log_decay[..., t].exp()[..., None, None] * held
        held = held + m.rate[..., t, None, None] * outer(k, k)
        whole = held + torch.diag_embed(m.ridge)
        solved.append(torch.linalg.solve(whole, m.query[..., t, :, None]).squeeze(-1))
    return walked(m, (scalar(m), written(m), torch.stack(solved, dim=-2)))


def momentum(m: Any) -> Tensor:
    b, e = m.rate[..., None], m.error_rate[..., None]
    mu = m.momentum_log_decay.exp()[..., None, None] * eye(m)
    found = outer(e * m.key, m.removal)
    top = torch.cat([scalar(m) - b[..., None] * found, -b[..., None] * mu], dim=-1)
    A = torch.cat([top, torch.cat([found, mu], dim=-1)], dim=-2)
    B = torch.cat([b * e * m.key, -e * m.key], dim=-1)
    return walked(m, (A, B, torch.cat([m.query, torch.zeros_like(m.query)], dim=-1)))


def preconditioned(m: Any) -> Tensor:
    """With the numbers of the kernels: reach 1.5, epsilon 1e-6, set point -0.2."""
    energy, keys = torch.zeros_like(m.key[..., 0, :]), []
    for t in range(m.key.shape[-2]):
        k = m.key[..., t, :]
        energy = m.curvature_log_decay[..., t, None].exp() * energy
        energy = energy + m.curvature_rate[..., t, None] * k**2
        excess = (energy + 1e-6).log() + 0.2
        keys.append(k * 1.5 ** (-excess / (1 + excess.abs())))
    write = m.rate[..., None] * torch.stack(keys, dim=-2)
    return walked(m, ((eye(m) - outer(write, m.key)) @ diagonal(m), write, m.query))


def written(m: Any) -> Tensor:
    return m.rate[..., None] * m.key


def channel_by_channel(m: Any) -> Tensor:
    """The kernel of HGRN: nothing scales what enters."""
    state, out = torch.zeros_like(m.value[..., 0, :]), []
    for t in range(m.value.shape[-2]):
        state = m.forget[..., t, :] * state + m.value[..., t, :]
        out.append(state)
    return torch.stack(out, dim=-2)


def by_reference(m: Any) -> Tensor:
    name = snake(type(m).__name__)
    return import_module(f"tests.references.{name}").reference(m)


LOOPS: dict[str, Callable[[Any], Tensor]] = {
    "linear_attn": normalised(lambda x: x, 1e-10),
    "based": normalised(taylor, 1e-6),
    "rebased": normalised(lambda x: outer(x, x).flatten(-2), 1e-6),
    "retention": lambda m: walked(m, (m.decay[:, None, None, None] * eye(m), m.key, m.query)),
    "simple_gla": lambda m: walked(m, (scalar(m), m.key, m.query)),
    "gla": lambda m: walked(m, (diagonal(m), m.key, m.query)),
    "hgrn": channel_by_channel,
    "hgrn2": lambda m: walked(m, (torch.diag_embed(m.decay), 1 - m.decay, m.query)),
    "delta_rule": lambda m: walked(m, (corrected(m, m.key), written(m), m.query)),
    "gated_delta_rule": lambda m: walked(m, (scalar(m) @ corrected(m, m.key), written(m), m.query)),
    "kda": lambda m: walked(m, (corrected(m, m.key) @ diagonal(m), written(m), m.query)),
    "gdn2": gated_twice,
    "comba": lambda m: walked(m, (scalar(m) @ corrected(m, m.removal), written(m), m.query)),
    "rwkv7": lambda m: walked(m, (diagonal(m) + outer(m.replacement, m.removal), m.key, m.query)),
    "iplr": lambda m: walked(m, (eye(m) + outer(m.replacement, m.removal), m.key, m.query)),
    "mesa_net": mesa,
    "momentum_delta_rule": momentum,
    "precond_gated_delta_rule": preconditioned,
    "precond_kda": preconditioned,
}
