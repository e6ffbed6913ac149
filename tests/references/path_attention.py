"""PaTH attention: every new token moves all keys before it, then softmax of what is left."""

import torch


def reference(m):
    scale = m.key.shape[-1] ** -0.5 if m.scale is None else m.scale
    keys, faded, out = [], [], []
    for i in range(m.value.shape[-2]):
        w, b = m.direction[..., i, :], m.rate[..., i, None]
        keys = [k - b * (k * w).sum(dim=-1, keepdim=True) * w for k in keys] + [m.key[..., i, :]]
        fade = 0 if m.log_decay is None else m.log_decay[..., i]
        faded = [sum_ + fade for sum_ in faded] + [torch.zeros_like(b[..., 0])]
        scores = [
            scale * ((m.query[..., i, :] * k).sum(dim=-1) + sum_)
            for k, sum_ in zip(keys, faded, strict=True)
        ]
        weights = torch.stack(scores, dim=-1).softmax(dim=-1)
        out.append(torch.einsum("...j,...jc->...c", weights, m.value[..., : i + 1, :]))
    return torch.stack(out, dim=-2)
