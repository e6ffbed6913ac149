"""Preconditioned DeltaNet: errors corrected along keys that their own history rescales."""

import math

import torch


def reference(m):
    states, channels = m.key.shape[-1], m.value.shape[-1]
    batch = m.value.shape[:-2]
    memory = torch.zeros(*batch, states, channels, dtype=m.value.dtype)
    energy = torch.zeros(*batch, states, dtype=m.value.dtype)
    out = []
    for t in range(m.value.shape[-2]):
        k, v, q = m.key[..., t, :], m.value[..., t, :], m.query[..., t, :]
        energy = energy * torch.exp(m.curvature_log_decay[..., t, None])
        energy = energy + m.curvature_rate[..., t, None] * k * k
        centred = torch.log(energy + m.epsilon) - m.log_curvature[..., None]
        squashed = centred / (1 + torch.abs(centred))
        direction = k * torch.exp(-math.log(m.reach) * squashed)
        memory = torch.exp(m.log_decay[..., t, :])[..., None] * memory
        error = v - torch.einsum("...k,...kc->...c", k, memory)
        step = m.rate[..., t, None] * direction
        memory = memory + step[..., :, None] * error[..., None, :]
        out.append(torch.einsum("...k,...kc->...c", q, memory))
    return torch.stack(out, dim=-2)
