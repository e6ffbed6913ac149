"""Kimi delta attention: fade every coordinate, then correct what is recalled at the key."""

import torch


def reference(m):
    states, channels = m.key.shape[-1], m.value.shape[-1]
    memory = torch.zeros(*m.value.shape[:-2], states, channels, dtype=m.value.dtype)
    out = []
    for t in range(m.value.shape[-2]):
        k, v, q = m.key[..., t, :], m.value[..., t, :], m.query[..., t, :]
        memory = torch.exp(m.log_decay[..., t, :])[..., None] * memory
        error = v - (k[..., :, None] * memory).sum(dim=-2)
        memory = memory + m.rate[..., t, None, None] * k[..., :, None] * error[..., None, :]
        out.append((q[..., :, None] * memory).sum(dim=-2))
    return torch.stack(out, dim=-2)
