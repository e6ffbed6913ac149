"""Linear attention, one written token at a time, as a weighted mean."""

import torch


def reference(m):
    queries, keys = m.feature_map(m.query), m.feature_map(m.key)
    steps = m.value.shape[-2]
    out = []
    for i in range(steps):
        reach = i + 1 if m.causal else steps
        weights = torch.stack(
            [(queries[..., i, :] * keys[..., j, :]).sum(dim=-1) for j in range(reach)], dim=-1
        )
        if m.normalised:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        out.append((weights[..., None] * m.value[..., :reach, :]).sum(dim=-2))
    return torch.stack(out, dim=-2)
