"""The matrix LSTM as a recurrence of memory, normaliser and stabiliser."""

import torch


def reference(m):
    states, channels = m.key.shape[-1], m.value.shape[-1]
    batch = m.value.shape[:-2]
    memory = torch.zeros(*batch, channels, states, dtype=m.value.dtype)
    held = torch.zeros(*batch, states, dtype=m.value.dtype)
    stabiliser = torch.zeros(batch, dtype=m.value.dtype)
    if m.start is not None:
        memory, held, stabiliser = m.start.mT, m.start_total, m.start_peak
    out = []
    for t in range(m.value.shape[-2]):
        q, k, v = m.query[..., t, :], m.key[..., t, :], m.value[..., t, :]
        log_forget = -torch.log1p(torch.exp(-m.forget_gate[..., t]))
        new = torch.maximum(log_forget + stabiliser, m.input_gate[..., t])
        forget = torch.exp(log_forget + stabiliser - new)[..., None]
        write = torch.exp(m.input_gate[..., t] - new)[..., None]
        memory = forget[..., None] * memory + write[..., None] * torch.einsum(
            "...c,...n->...cn", v, k
        )
        held = forget * held + write * k
        stabiliser = new
        bottom = torch.maximum(torch.abs((held * q).sum(dim=-1)), torch.exp(-new)) + m.epsilon
        out.append(torch.einsum("...cn,...n->...c", memory, q) / bottom[..., None])
    return torch.stack(out, dim=-2)
