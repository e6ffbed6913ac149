"""Gated DeltaNet 2: fade, recall at the gated key, write the gated value less what was recalled."""

import torch


def reference(m):
    states, channels = m.key.shape[-1], m.value.shape[-1]
    memory = torch.zeros(*m.value.shape[:-2], states, channels, dtype=m.value.dtype)
    out = []
    for t in range(m.value.shape[-2]):
        k, q = m.key[..., t, :], m.query[..., t, :]
        memory = torch.exp(m.log_decay[..., t, :])[..., None] * memory
        recalled = torch.einsum("...k,...k,...kc->...c", m.erase_gate[..., t, :], k, memory)
        new = m.write_gate[..., t, :] * m.value[..., t, :]
        memory = memory + torch.einsum("...k,...c->...kc", k, new - recalled)
        out.append(torch.einsum("...k,...kc->...c", q, memory))
    return torch.stack(out, dim=-2)
