"""Momentum DeltaNet: gradient descent with momentum on the error at the removal vector."""

import torch


def reference(m):
    states, channels = m.key.shape[-1], m.value.shape[-1]
    memory = torch.zeros(*m.value.shape[:-2], states, channels, dtype=m.value.dtype)
    momentum = torch.zeros_like(memory)
    out = []
    for t in range(m.value.shape[-2]):
        k, v, q = m.key[..., t, :], m.value[..., t, :], m.query[..., t, :]
        error = v - torch.einsum("...k,...kc->...c", m.removal[..., t, :], memory)
        gradient = -torch.einsum("...k,...c->...kc", k, error)
        fade = torch.exp(m.momentum_log_decay[..., t, None, None])
        momentum = fade * momentum + m.error_rate[..., t, None, None] * gradient
        memory = torch.exp(m.log_decay[..., t, None, None]) * memory
        memory = memory - m.rate[..., t, None, None] * momentum
        out.append(torch.einsum("...k,...kc->...c", q, memory))
    return torch.stack(out, dim=-2)
