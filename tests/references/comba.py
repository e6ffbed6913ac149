"""Comba: fade, recall at the removal vector, write the difference at the key."""

import torch


def reference(m):
    state = torch.zeros(*m.key.shape[:-2], m.key.shape[-1], m.value.shape[-1], dtype=m.key.dtype)
    out = []
    for t in range(m.key.shape[-2]):
        k, p, v, q = (part[..., t, :] for part in (m.key, m.removal, m.value, m.query))
        state = state * torch.exp(m.log_decay[..., t])[..., None, None]
        recalled = torch.einsum("...nc,...n->...c", state, p)
        change = m.rate[..., t, None] * (v - recalled)
        state = state + torch.einsum("...n,...c->...nc", k, change)
        out.append(torch.einsum("...nc,...n->...c", state, q))
    return torch.stack(out, dim=-2)
