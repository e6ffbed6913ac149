"""Zero-sum attention layers from the definition of their weights, one token and head at a time."""

import math

import torch

from tests.layers.literal_attention import attend, heads_of, linear, padded


def reweighted(logits, first, higher, zero=None):
    """Weights of one row from its logits ``(batch, reach)``; factors are ``(batch,)``."""
    reach = logits.shape[1]
    deviation = logits - logits.mean(dim=-1, keepdim=True)
    raised = torch.exp(logits - logits.max(dim=-1, keepdim=True).values)
    rest = raised / raised.sum(dim=-1, keepdim=True) - 1 / reach - deviation / reach
    row = first[:, None] * deviation / reach + higher[:, None] * rest
    return row if zero is None else row + zero[:, None] / reach


def turned(x, position):
    """Rotary positions by complex numbers: entry k and k + half are one of them."""
    half = x.shape[-1] // 2
    numbers = torch.complex(x[:, :half], x[:, half:])
    angles = x.new_tensor([position * 10000 ** (-k / half) for k in range(half)])
    moved = numbers * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([moved.real, moved.imag], dim=-1)


def token_logits(weights, x, head, heads, *, causal=True):
    u = heads_of(linear(weights, "logit", x), heads)[head]
    prior = heads_of(weights["prior"], heads)[head]
    weight = torch.exp(weights["log_weight"][head])
    logits = []
    for i in range(x.shape[1]):
        reach = i + 1 if causal else x.shape[1]
        mean = (weight * prior + u[:, :reach].sum(dim=1)) / (weight + reach)
        logits.append(-(u[:, i] * mean).sum(dim=-1) / math.sqrt(u.shape[-1]))
    return torch.stack(logits, dim=1)


def normed(tokens):
    mean = tokens.mean(dim=-1, keepdim=True)
    variance = (tokens - mean).square().mean(dim=-1, keepdim=True)
    return (tokens - mean) / torch.sqrt(variance + 1e-5)


def orders(weights, x, i, head, heads, *, zero_order):
    raw = linear(weights, "orders", x[:, i])
    zero = torch.tanh(raw[:, 2 * heads + head]) if zero_order else None
    return torch.sigmoid(raw[:, head]), torch.sigmoid(raw[:, heads + head]), zero


def scanned(weights, x, *, heads, angle=True, rotary=True, zero_order=False, causal=True):
    values = heads_of(linear(weights, "value", x), heads)
    merged = []
    for head in range(heads):
        logits = token_logits(weights, x, head, heads, causal=causal)
        out = []
        for i in range(x.shape[1]):
            reach = i + 1 if causal else x.shape[1]
            factors = orders(weights, x, i, head, heads, zero_order=zero_order)
            row = reweighted(logits[:, :reach], *factors)
            if angle:
                row = row * cosines(weights, x, i, head, heads, rotary, reach)
            out.append(torch.einsum("bj,bjc->bc", row, values[head][:, :reach]))
        merged.append(normed(torch.stack(out, dim=1)))
    return linear(weights, "out", torch.cat(merged, dim=-1))


def cosines(weights, x, i, head, heads, rotary, reach):
    query = heads_of(linear(weights, "query", x), heads)[head][:, i]
    keys = heads_of(linear(weights, "key", x), heads)[head]
    if rotary:
        query = turned(query, i)
        keys = torch.stack([turned(keys[:, j], j) for j in range(reach)], dim=1)
    return torch.nn.functional.cosine_similarity(query[:, None], keys[:, :reach], dim=-1)


def paired(weights, x, *, heads, causal=True, zero_order=False):
    def row(i, head, query, key):
        reach = i + 1 if causal else x.shape[1]
        scores = torch.einsum("bk,bjk->bj", query[:, i], key[:, :reach])
        factors = orders(weights, x, i, head, heads, zero_order=zero_order)
        return padded(reweighted(scores / math.sqrt(query.shape[-1]), *factors), x.shape[1])

    merged = [normed(part) for part in heads_of(attend(weights, x, heads, row), heads)]
    return linear(weights, "out", torch.cat(merged, dim=-1))
