"""minGRU as a step from the old state towards the candidate."""

import torch


def reference(m):
    state = torch.zeros_like(m.value[..., 0, :])
    out = []
    for t in range(m.value.shape[-2]):
        state = torch.lerp(state, m.value[..., t, :], m.update[..., t, :])
        out.append(state)
    return torch.stack(out, dim=-2)
