"""Mamba's selective scan, one channel and one state at a time."""

import torch


def reference(m):
    out = torch.zeros_like(m.value)
    steps, channels = m.value.shape[-2:]
    states = m.pole.shape[-1]
    for c in range(channels):
        for n in range(states):
            h = torch.zeros_like(m.value[..., 0, 0])
            for t in range(steps):
                delta = m.step[..., t, c]
                kept = torch.exp(delta * m.pole[..., c, n]) * h
                h = kept + delta * m.write[..., t, n] * m.value[..., t, c]
                out[..., t, c] += m.read[..., t, n] * h
    if m.feedthrough is not None:
        out = out + m.feedthrough[..., None, :] * m.value
    return out
