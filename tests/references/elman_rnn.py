"""The Elman network in its own nonlinear form."""

import torch


def reference(m):
    steps, channels = m.inputs.shape[-2], m.recurrent_weight.shape[0]
    state = torch.zeros(*m.inputs.shape[:-2], channels, dtype=m.inputs.dtype)
    state = state if m.start is None else m.start
    out = [None] * steps
    for t in reversed(range(steps)) if m.runs_backward else range(steps):
        fed = torch.nn.functional.linear(m.inputs[..., t, :], m.input_weight, m.input_bias)
        kept = torch.nn.functional.linear(state, m.recurrent_weight, m.recurrent_bias)
        state = m.activation.value(fed + kept)
        out[t] = state
    return torch.stack(out, dim=-2)
