"""Attention with bounded-memory control: averages of all tokens so far, slot by slot."""

import torch


def reference(m):
    out = []
    for t in range(m.value.shape[-2]):
        weight = torch.exp(m.slot_logit[..., : t + 1, :])
        weight = weight / weight.sum(dim=-2, keepdim=True)
        keys = torch.einsum("...jm,...jk->...mk", weight, m.key[..., : t + 1, :])
        values = torch.einsum("...jm,...jc->...mc", weight, m.value[..., : t + 1, :])
        chosen = torch.einsum("...k,...mk->...m", m.query[..., t, :], keys).softmax(dim=-1)
        out.append(torch.einsum("...m,...mc->...c", chosen, values))
    return torch.stack(out, dim=-2)
