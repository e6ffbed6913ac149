"""Mamba-2's scan, head after head."""

import torch


def reference(m):
    heads, steps = m.value.shape[-3:-1]
    groups = m.write.shape[-3]
    by_head = []
    for h in range(heads):
        g = h // (heads // groups)
        state = torch.zeros_like(m.write[..., g, 0, :, None] * m.value[..., h, 0, None, :])
        out = []
        for t in range(steps):
            delta, x = m.step[..., h, t], m.value[..., h, t, :]
            b, c = m.write[..., g, t, :], m.read[..., g, t, :]
            state = torch.exp(m.pole[h] * delta)[..., None, None] * state
            state = state + b[..., :, None] * (delta[..., None] * x)[..., None, :]
            y = (state * c[..., :, None]).sum(dim=-2)
            if m.feedthrough is not None:
                y = y + m.feedthrough[h] * x
            out.append(y)
        by_head.append(torch.stack(out, dim=-2))
    return torch.stack(by_head, dim=-3)
