"""Forgetting attention, one pair of tokens at a time, as decayed exponential weights."""

import torch


def reference(m):
    scale = m.key.shape[-1] ** -0.5 if m.scale is None else m.scale
    out = []
    for i in range(m.value.shape[-2]):
        weights = []
        for j in range(i + 1):
            score = scale * (m.query[..., i, :] * m.key[..., j, :]).sum(dim=-1)
            kept = torch.exp(m.log_decay[..., j + 1 : i + 1]).prod(dim=-1)
            weights.append(kept * torch.exp(score))
        weights = torch.stack(weights, dim=-1)
        mixed = (weights[..., None] * m.value[..., : i + 1, :]).sum(dim=-2)
        out.append(mixed / weights.sum(dim=-1)[..., None])
    return torch.stack(out, dim=-2)
