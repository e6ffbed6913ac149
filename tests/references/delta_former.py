"""DeltaFormer: a cache of values, each less what it found in the cache, then attention to it."""

import torch


def reference(m):
    scale = m.key.shape[-1] ** -0.5 if m.scale is None else m.scale
    cache, out = [], []

    def mixed(vector, keys):
        weights = torch.exp(scale * torch.einsum("...k,...jk->...j", vector, keys))
        weights = weights / weights.sum(dim=-1, keepdim=True)
        return torch.einsum("...j,...jc->...c", weights, torch.stack(cache, dim=-2))

    for i in range(m.value.shape[-2]):
        new = m.value[..., i, :]
        if i > 0:
            new = new - m.rate[..., i, None] * mixed(m.removal[..., i, :], m.key[..., :i, :])
        cache.append(new)
        out.append(mixed(m.query[..., i, :], m.key[..., : i + 1, :]))
    return torch.stack(out, dim=-2)
