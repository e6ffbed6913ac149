"""The long short-term memory in its own nonlinear form."""

import torch


def reference(m):
    steps = m.inputs.shape[-2]
    _, channels, outputs = m.recurrent_weight.shape
    h = torch.zeros(*m.inputs.shape[:-2], outputs, dtype=m.inputs.dtype)
    c = torch.zeros(*m.inputs.shape[:-2], channels, dtype=m.inputs.dtype)
    h = h if m.start is None else m.start
    c = c if m.start_cell is None else m.start_cell
    out = [None] * steps
    for t in reversed(range(steps)) if m.runs_backward else range(steps):
        x = m.inputs[..., t, :]
        i, f, g, o = (
            x @ m.input_weight[k].T
            + h @ m.recurrent_weight[k].T
            + m.input_bias[k]
            + m.recurrent_bias[k]
            for k in range(4)
        )
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        if m.projection is not None:
            h = h @ m.projection.T
        out[t] = h
    return torch.stack(out, dim=-2)
