"""DeltaNet, as an error that is corrected at the key."""

import torch


def reference(m):
    state = torch.zeros(*m.key.shape[:-2], m.key.shape[-1], m.value.shape[-1], dtype=m.key.dtype)
    out = []
    for t in range(m.key.shape[-2]):
        k, v, q, b = m.key[..., t, :], m.value[..., t, :], m.query[..., t, :], m.rate[..., t]
        recalled = torch.einsum("...nc,...n->...c", state, k)
        state = state + torch.einsum("...,...n,...c->...nc", b, k, v - recalled)
        out.append(torch.einsum("...nc,...n->...c", state, q))
    return torch.stack(out, dim=-2)
