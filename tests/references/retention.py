"""Retention in its parallel form: a Toeplitz mask of powers of the decay."""

import torch


def reference(m):
    steps = m.value.shape[-2]
    dtype = torch.promote_types(m.decay.dtype, m.value.dtype)
    out = torch.zeros(m.value.shape, dtype=dtype)
    for i in range(steps):
        for j in range(i + 1):
            score = (m.query[..., i, :] * m.key[..., j, :]).sum(dim=-1)
            out[..., i, :] += (m.decay ** (i - j) * score)[..., None] * m.value[..., j, :]
    return out
