"""InLine attention, one written token at a time."""

import torch


def reference(m):
    queries, keys = m.feature_map(m.query), m.feature_map(m.key)
    steps = m.value.shape[-2]
    out = []
    for i in range(steps):
        reach = i + 1 if m.causal else steps
        scores = torch.einsum("...k,...jk->...j", queries[..., i, :], keys[..., :reach, :])
        weights = scores - scores.mean(dim=-1, keepdim=True) + 1 / reach
        out.append(torch.einsum("...j,...jc->...c", weights, m.value[..., :reach, :]))
    return torch.stack(out, dim=-2)
