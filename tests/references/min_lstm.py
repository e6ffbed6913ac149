"""minLSTM, number by number."""

import torch


def reference(m):
    out = torch.zeros_like(m.value)
    for channel in range(m.value.shape[-1]):
        cell = torch.zeros_like(m.value[..., 0, 0])
        for t in range(m.value.shape[-2]):
            f, i = m.forget[..., t, channel], m.input[..., t, channel]
            total = f + i if m.normalised else 1
            cell = (f * cell + i * m.value[..., t, channel]) / total
            out[..., t, channel] = cell
    return out
