"""S4D through its convolution kernel, with both members of every conjugate pair written out."""

import torch


def reference(m):
    assert m.discretise.__name__ == "zero_order_hold"
    pole = torch.cat([m.pole, m.pole.conj()], dim=-1)
    write = torch.cat([m.write, m.write.conj()], dim=-1)
    read = torch.cat([m.read, m.read.conj()], dim=-1)
    delta = m.step[..., None]
    held = (torch.exp(delta * pole) - 1) / pole
    steps = m.value.shape[-2]
    kernel = []
    for lag in range(steps):
        response = read * torch.exp(lag * delta * pole) * held * write
        kernel.append(response.sum(dim=-1).real)
    out = torch.zeros_like(m.value)
    for i in range(steps):
        for j in range(i + 1):
            out[..., i, :] += kernel[i - j][..., None] * m.value[..., j, :]
    if m.feedthrough is not None:
        out = out + m.feedthrough[..., None, None] * m.value
    return out
