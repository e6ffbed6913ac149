"""Zero-sum attention on scores of pairs, from its definition, one written token at a time."""

import torch


def reference(m):
    out = []
    scale = m.key.shape[-1] ** -0.5 if m.scale is None else m.scale
    for i in range(m.query.shape[-2]):
        n = i + 1 if m.causal else m.key.shape[-2]
        scores = scale * torch.einsum("...k,...jk->...j", m.query[..., i, :], m.key[..., :n, :])
        deviation = scores - scores.mean(dim=-1, keepdim=True)
        raised = torch.exp(scores)
        rest = raised / raised.sum(dim=-1, keepdim=True) - 1 / n - deviation / n
        weights = m.first_order[..., i, None] * deviation / n + m.higher_order[..., i, None] * rest
        if m.zero_order is not None:
            weights = weights + m.zero_order[..., i, None] / n
        out.append(torch.einsum("...j,...jc->...c", weights, m.value[..., :n, :]))
    return torch.stack(out, dim=-2)
