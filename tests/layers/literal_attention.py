"""Attention layers as their papers write them: weights by name, one token and head at a time."""

import torch


def linear(weights, name, x):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def heads_of(x, heads):
    """A list of what every head sees."""
    return x.split(x.shape[-1] // heads, dim=-1)


def attend(weights, x, heads, row):
    """Project; ask ``row(i, head, query, key)`` for the weights of token i; merge; project."""
    both = linear(weights, "project.query_key", x)
    queries, keys = both[..., : both.shape[-1] // 2], both[..., both.shape[-1] // 2 :]
    values = linear(weights, "project.value", x)
    parts = zip(*(heads_of(part, heads) for part in (queries, keys, values)), strict=True)
    merged = []
    for head, (query, key, value) in enumerate(parts):
        tokens = [
            torch.einsum("bj,bjc->bc", row(i, head, query, key), value) for i in range(x.shape[1])
        ]
        merged.append(torch.stack(tokens, dim=1))
    return torch.cat(merged, dim=-1)


def visible(scores, i, causal):
    """Scores of the tokens in reach; the others are dropped."""
    return scores[:, : i + 1] if causal else scores


def padded(row, length):
    return torch.cat([row, row.new_zeros(len(row), length - row.shape[1])], dim=-1)


def softmax(weights, x, *, heads, causal=True):
    def row(i, _, query, key):
        scores = torch.einsum("bk,bjk->bj", query[:, i], key) / query.shape[-1] ** 0.5
        raised = torch.exp(visible(scores, i, causal))
        return padded(raised / raised.sum(dim=-1, keepdim=True), x.shape[1])

    return linear(weights, "out", attend(weights, x, heads, row))


def elu_plus_one(x):
    return torch.nn.functional.elu(x) + 1


def kernel(weights, x, *, heads, feature_map=elu_plus_one, normalised=True, causal=True):
    def row(i, _, query, key):
        scores = torch.einsum("bk,bjk->bj", feature_map(query[:, i]), feature_map(key))
        scores = visible(scores, i, causal)
        total = scores.sum(dim=-1, keepdim=True) if normalised else 1
        return padded(scores / total, x.shape[1])

    return linear(weights, "out", attend(weights, x, heads, row))


def normalised(weights, x, *, heads, gain):
    """``gain`` is one over the normaliser."""

    def row(i, head, query, key):
        scores = torch.einsum("bk,bjk->bj", query[:, i], key)[:, : i + 1]
        factor = gain(linear(weights, "divisor", x[:, i])[:, head])
        return padded(scores * factor[:, None], x.shape[1])

    return linear(weights, "out", attend(weights, x, heads, row))


def in_line(weights, x, *, heads, feature_map=lambda x: x, causal=True, scaled=True, added=None):
    def row(i, _, query, key):
        reach = i + 1 if causal else x.shape[1]
        factor = query.shape[-1] ** -0.5 / reach if scaled else 1
        scores = factor * torch.einsum("bk,bjk->bj", feature_map(query[:, i]), feature_map(key))
        scores = visible(scores, i, causal)
        return padded(scores - scores.mean(dim=-1, keepdim=True) + 1 / reach, x.shape[1])

    merged = attend(weights, x, heads, row)
    if added is not None:
        merged = merged + added(weights, x)
    return linear(weights, "out", merged)


def local_residual(weights, x, *, heads, grid, outside):
    """Every neighbour of every token, looked up one by one."""
    mean = x.mean(dim=1)
    inner = _grouped(weights, "residual.inner", mean, heads)
    inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2
    taps = _grouped(weights, "residual.outer", inner, heads).reshape(len(x), -1, 3, 3)
    values = linear(weights, "project.value", x)
    out = torch.zeros_like(values)
    rows, columns = grid
    for r in range(rows):
        for c in range(columns):
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    if 0 <= r + down < rows and 0 <= c + right < columns:
                        there = outside + (r + down) * columns + c + right
                        tap = taps[:, :, down + 1, right + 1]
                        out[:, outside + r * columns + c] += tap * values[:, there]
    return out


def _grouped(weights, name, x, groups):
    matrices = weights[f"{name}.weight"].squeeze(-1).chunk(groups)
    parts = [part @ matrix.T for part, matrix in zip(x.chunk(groups, -1), matrices, strict=True)]
    return torch.cat(parts, dim=-1) + weights[f"{name}.bias"]
