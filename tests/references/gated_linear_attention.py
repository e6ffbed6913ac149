"""Gated linear attention, one key coordinate and one token at a time."""

import torch


def reference(m):
    steps, keys = m.key.shape[-2:]
    out = torch.zeros_like(m.value)
    for n in range(keys):
        row = torch.zeros_like(m.value[..., 0, :])
        for t in range(steps):
            row = torch.exp(m.log_decay[..., t, n])[..., None] * row
            row = row + m.key[..., t, n, None] * m.value[..., t, :]
            out[..., t, :] += m.query[..., t, n, None] * row
    return out
