"""Scalar-gated attention as a double sum over pairs of tokens, without a state."""

import torch


def reference(m):
    out = []
    for i in range(m.key.shape[-2]):
        total = torch.zeros_like(m.value[..., 0, :])
        for j in range(i + 1):
            faded = torch.exp(m.log_decay[..., j + 1 : i + 1].sum(dim=-1))
            weight = faded * (m.query[..., i, :] * m.key[..., j, :]).sum(dim=-1)
            total = total + weight[..., None] * m.value[..., j, :]
        out.append(total)
    return torch.stack(out, dim=-2)
