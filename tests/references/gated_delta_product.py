"""Gated DeltaProduct: one correction after the other inside every token."""

import torch


def reference(m):
    states, channels = m.key.shape[-1], m.value.shape[-1]
    memory = torch.zeros(*m.query.shape[:-2], states, channels, dtype=m.value.dtype)
    out = []
    for t in range(m.query.shape[-2]):
        if m.log_decay is not None:
            memory = torch.exp(m.log_decay[..., t, None, None]) * memory
        for n in range(m.key.shape[-2]):
            k, v = m.key[..., t, n, :], m.value[..., t, n, :]
            error = v - torch.einsum("...k,...kc->...c", k, memory)
            memory = memory + m.rate[..., t, n, None, None] * k[..., :, None] * error[..., None, :]
        out.append(torch.einsum("...k,...kc->...c", m.query[..., t, :], memory))
    return torch.stack(out, dim=-2)
