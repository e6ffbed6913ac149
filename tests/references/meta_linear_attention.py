"""MetaLA as weights of pairs of tokens."""

import torch


def reference(m):
    out = []
    for t in range(m.value.shape[-2]):
        total = torch.zeros_like(m.value[..., 0, :])
        for s in range(t + 1):
            kept = m.decay[..., s + 1 : t + 1, :].prod(dim=-2) * (1 - m.decay[..., s, :])
            if s == t and m.augmentation is not None:
                kept = kept * (1 + m.augmentation)
            total = total + (m.query[..., t, :] * kept).sum(dim=-1)[..., None] * m.value[..., s, :]
        out.append(total)
    return torch.stack(out, dim=-2)
