"""Softmax attention, one written token at a time."""

import torch


def reference(m):
    out = []
    scale = m.key.shape[-1] ** -0.5 if m.scale is None else m.scale
    for i in range(m.query.shape[-2]):
        reach = i + 1 if m.causal else m.key.shape[-2]
        scores = scale * torch.einsum("...k,...jk->...j", m.query[..., i, :], m.key[..., :reach, :])
        if m.softcap is not None:
            scores = m.softcap * torch.tanh(scores / m.softcap)
        if m.bias is not None:
            scores = scores + m.bias[..., i, :reach]
        weights = torch.exp(scores)
        total = weights.sum(dim=-1)
        if m.sink is not None:
            total = total + torch.exp(m.sink)
        mixed = torch.einsum("...j,...jc->...c", weights, m.value[..., :reach, :])
        out.append(mixed / total[..., None])
    return torch.stack(out, dim=-2)
