"""The linear recurrent unit as a sum over the past, state by state."""

import torch


def reference(m):
    pole = -torch.exp(m.log_radius) + 1j * torch.exp(m.log_phase)
    scale = torch.sqrt(1 - torch.exp(pole).abs() ** 2)
    steps = m.value.shape[-2]
    out = []
    for i in range(steps):
        y = 0
        for j in range(i + 1):
            inner = scale * torch.exp((i - j) * pole)
            impulse = torch.einsum("on,n,ni->oi", m.read, inner.to(m.read), m.write).real
            y = y + torch.einsum("oi,...i->...o", impulse, m.value[..., j, :])
        if m.feedthrough is not None:
            u = m.value[..., i, :]
            y = y + (u @ m.feedthrough.T if m.feedthrough.ndim > 1 else u * m.feedthrough)
        out.append(y)
    return torch.stack(out, dim=-2)
