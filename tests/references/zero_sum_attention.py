"""Zero-sum attention from the definition of its weights, one written token at a time."""

import torch


def reference(m):
    out = []
    for i in range(m.value.shape[-2]):
        n = i + 1 if m.causal else m.value.shape[-2]
        logits = m.logit[..., :n]
        deviation = logits - logits.mean(dim=-1, keepdim=True)
        rest = torch.softmax(logits, dim=-1) - 1 / n - deviation / n
        weights = m.first_order[..., i, None] * deviation / n + m.higher_order[..., i, None] * rest
        if m.zero_order is not None:
            weights = weights + m.zero_order[..., i, None] / n
        if m.query is not None:
            cosine = torch.nn.functional.cosine_similarity(
                m.query[..., i, None, :], m.key[..., :n, :], dim=-1
            )
            weights = weights * cosine
        out.append((weights[..., None] * m.value[..., :n, :]).sum(dim=-2))
    return torch.stack(out, dim=-2)
