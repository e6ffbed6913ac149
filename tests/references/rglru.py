"""The real-gated linear recurrent unit, with every document started afresh."""

import torch


def reference(m):
    state = torch.zeros_like(m.value[..., 0, :])
    out = []
    for t in range(m.value.shape[-2]):
        gated = m.input_gate[..., t, :] * m.value[..., t, :]
        a = m.decay[..., t, :]
        new = a * state + torch.sqrt(1 - a**2) * gated
        if m.reset is not None:
            new = torch.where(m.reset[..., t, None], gated, new)
        state = new
        out.append(state)
    return torch.stack(out, dim=-2)
