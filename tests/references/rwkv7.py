"""RWKV-7: look up what the removal finds, fade, put it in place, write."""

import torch


def reference(m):
    states, channels = m.key.shape[-1], m.value.shape[-1]
    memory = torch.zeros(*m.value.shape[:-2], states, channels, dtype=m.value.dtype)
    out = []
    for t in range(m.value.shape[-2]):
        found = torch.einsum("...n,...nc->...c", m.removal[..., t, :], memory)
        memory = memory * torch.exp(m.log_decay[..., t, :, None])
        memory = memory + m.replacement[..., t, :, None] * found[..., None, :]
        memory = memory + m.key[..., t, :, None] * m.value[..., t, None, :]
        out.append(torch.einsum("...n,...nc->...c", m.query[..., t, :], memory))
    return torch.stack(out, dim=-2)
