"""Gated slot attention: slots for keys, slots for values, and softmax over the slots."""

import torch


def reference(m):
    slots, states, channels = m.slot_write.shape[-1], m.key.shape[-1], m.value.shape[-1]
    batch = m.value.shape[:-2]
    keys = torch.zeros(*batch, states, slots, dtype=m.value.dtype)
    values = torch.zeros(*batch, channels, slots, dtype=m.value.dtype)
    out = []
    for t in range(m.value.shape[-2]):
        s, fade = m.slot_write[..., t, :], torch.exp(m.log_decay[..., t, :])[..., None, :]
        keys = keys * fade + m.key[..., t, :, None] * s[..., None, :]
        values = values * fade + m.value[..., t, :, None] * s[..., None, :]
        weight = torch.exp(torch.einsum("...k,...km->...m", m.query[..., t, :], keys))
        weight = weight / weight.sum(dim=-1, keepdim=True)
        out.append(torch.einsum("...cm,...m->...c", values, weight))
    return torch.stack(out, dim=-2)
