"""RWKV-6: read the old memory and the boosted current token, then update."""

import torch


def reference(m):
    states, channels = m.key.shape[-1], m.value.shape[-1]
    memory = torch.zeros(*m.value.shape[:-2], states, channels, dtype=m.value.dtype)
    out = []
    for t in range(m.value.shape[-2]):
        k, v, q = m.key[..., t, :], m.value[..., t, :], m.query[..., t, :]
        new = k[..., :, None] * v[..., None, :]
        seen = memory + m.bonus[..., :, None] * new
        out.append((q[..., :, None] * seen).sum(dim=-2))
        memory = torch.exp(m.log_decay[..., t, :])[..., None] * memory + new
    return torch.stack(out, dim=-2)
