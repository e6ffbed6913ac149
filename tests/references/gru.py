"""The gated recurrent unit in its own nonlinear form."""

import torch


def reference(m):
    steps, channels = m.inputs.shape[-2], m.recurrent_weight.shape[-1]
    h = torch.zeros(*m.inputs.shape[:-2], channels, dtype=m.inputs.dtype)
    h = h if m.start is None else m.start
    out = [None] * steps
    for t in reversed(range(steps)) if m.runs_backward else range(steps):
        x = m.inputs[..., t, :]
        fed = [x @ m.input_weight[g].T + m.input_bias[g] for g in range(3)]
        kept = [h @ m.recurrent_weight[g].T + m.recurrent_bias[g] for g in range(3)]
        r = torch.sigmoid(fed[0] + kept[0])
        z = torch.sigmoid(fed[1] + kept[1])
        n = torch.tanh(fed[2] + r * kept[2])
        h = n + z * (h - n)
        out[t] = h
    return torch.stack(out, dim=-2)
