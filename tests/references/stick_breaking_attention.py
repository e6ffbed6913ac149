"""Stick-breaking attention: break the stick, key after key, from the newest back."""

import torch


def reference(m):
    scale = m.key.shape[-1] ** -0.5 if m.scale is None else m.scale
    out = []
    for i in range(m.value.shape[-2]):
        stick = torch.ones(m.value.shape[:-2], dtype=m.value.dtype)
        mixed = torch.zeros_like(m.value[..., 0, :])
        for j in reversed(range(i + 1 if m.reads_itself else i)):
            score = scale * (m.query[..., i, :] * m.key[..., j, :]).sum(dim=-1)
            piece = stick / (1 + torch.exp(-score))
            mixed = mixed + piece[..., None] * m.value[..., j, :]
            stick = stick - piece
        out.append(mixed)
    return torch.stack(out, dim=-2)
