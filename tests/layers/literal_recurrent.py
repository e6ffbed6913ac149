"""Layers with a decaying state as their papers write them, one token after the other."""

import torch


def linear(weights, name, x):
    y = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def silu(x):
    return x * sigmoid(x)


def gelu(x):
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def softplus(x):
    return torch.log(1 + torch.exp(x))


def filtered(weights, x):
    """The last tap meets the token itself, the one before it the token before, and so on."""
    taps = weights["filter.weight"][:, 0]
    out = torch.zeros_like(x)
    for t in range(x.shape[1]):
        for back in range(min(t + 1, taps.shape[1])):
            out[:, t] = out[:, t] + taps[:, -1 - back] * x[:, t - back]
    return out + weights["filter.bias"] if "filter.bias" in weights else out


def scanned(value, step, pole, write, read, skip):
    """Every channel a system: ``h = exp(step pole) h + step write value``."""
    h, out = 0, []
    for t in range(value.shape[1]):
        now = step[:, t, :, None]
        h = torch.exp(now * pole) * h + now * write[:, t, None] * value[:, t, :, None]
        out.append((h * read[:, t, None]).sum(dim=-1) + skip * value[:, t])
    return torch.stack(out, dim=1)


def selection(weights, value):
    pole = -torch.exp(weights["selection.log_rate"])
    states = pole.shape[1]
    parts = linear(weights, "selection.coefficients", value)
    rank = parts.shape[-1] - 2 * states
    low, write, read = parts[..., :rank], parts[..., rank:-states], parts[..., -states:]
    step = softplus(linear(weights, "selection.step_size", low))
    return scanned(value, step, pole, write, read, weights["selection.feedthrough"])


def selective(weights, x):
    return linear(weights, "out", selection(weights, x))


def mamba(weights, x):
    value = silu(filtered(weights, linear(weights, "value", x)))
    return linear(weights, "out", selection(weights, value) * silu(linear(weights, "gate", x)))


def duality(weights, x, *, states):
    parts = linear(weights, "coefficients", x)
    raw, write, read = parts[..., :1], parts[..., 1 : 1 + states], parts[..., 1 + states :]
    step = softplus(raw + weights["step_size.bias"])
    pole = -torch.exp(weights["log_rate"]).expand(x.shape[-1], states)
    return linear(weights, "out", scanned(x, step, pole, write, read, weights["feedthrough"]))


def remembered(query, key, value, decay):
    """``S = diag(decay) S + key valueᵀ``, read by the query."""
    S, out = 0, []
    for t in range(query.shape[1]):
        S = decay[:, t, :, None] * S + key[:, t, :, None] * value[:, t, None]
        out.append(torch.einsum("bk,bkc->bc", query[:, t], S))
    return torch.stack(out, dim=1)


def layer_norm(x):
    middle = x - x.mean(dim=-1, keepdim=True)
    return middle / torch.sqrt((middle**2).mean(dim=-1, keepdim=True) + 1e-5)


def by_head(act, heads, *parts):
    """``act`` on every head's share of the channels."""
    shares = zip(*(part.chunk(heads, dim=-1) for part in parts), strict=True)
    return torch.cat([act(*share) for share in shares], dim=-1)


def gated(weights, x, *, heads, keys):
    parts = linear(weights, "projections", x)
    query, key, value = parts[..., :keys], parts[..., keys : 2 * keys], parts[..., 2 * keys :]
    decay = sigmoid(linear(weights, "decay", linear(weights, "decay_low", x))) ** (1 / 16)
    mixed = by_head(lambda *p: layer_norm(remembered(*p)), heads, query, key, value, decay)
    return linear(weights, "out", mixed * silu(linear(weights, "gate", x)))


def delta(weights, x, *, heads, keys):
    parts = linear(weights, "projections", x)
    if "filter.weight" in weights:
        parts = filtered(weights, parts)
    parts = silu(parts)
    query, key, value = parts[..., :keys], parts[..., keys : 2 * keys], parts[..., 2 * keys :]

    def head(query, key, value, rate):
        S, out = torch.zeros(len(x), query.shape[-1], value.shape[-1]).to(x), []
        for t in range(x.shape[1]):
            q = query[:, t] / query[:, t].norm(dim=-1, keepdim=True)
            k = key[:, t] / key[:, t].norm(dim=-1, keepdim=True)
            new = value[:, t] - torch.einsum("bk,bkc->bc", k, S)
            S = S + rate[:, t, :, None] * k[:, :, None] * new[:, None]
            read = torch.einsum("bk,bkc->bc", q, S)
            out.append(read / torch.sqrt((read**2).mean(dim=-1, keepdim=True) + 1e-5))
        return torch.stack(out, dim=1)

    rate = sigmoid(linear(weights, "rate", x))
    return linear(weights, "out", by_head(head, heads, query, key, value, rate))


def meta(weights, x, *, heads, augmented=sigmoid):
    """``augmented`` is what the second term of the response passes through."""
    x = silu(filtered(weights, x)) if "filter.weight" in weights else x
    query, value = linear(weights, "query", x), linear(weights, "value", x)
    if "decay.logit" in weights:
        logit = weights["decay.logit"].expand_as(query)
    else:
        logit = linear(weights, "decay", x)
    decay = sigmoid(logit) ** (1 / 16)
    key = linear(weights, "key", x) if "key.weight" in weights else 1 - decay
    own = weights.get("augmentation", torch.zeros(1)).flatten().expand_as(query).to(x)

    def head(query, key, value, decay, own):
        extra = augmented((query * own * key).sum(dim=-1, keepdim=True) * value)
        return layer_norm(remembered(query, key, value, decay) + extra)

    mixed = by_head(head, heads, query, key, value, decay, own)
    return linear(weights, "out", mixed * silu(linear(weights, "gate", x)))


def quasi(weights, x):
    """``a`` is 1 / (1 + exp(f)) to a power where there is an exponent."""
    value = filtered(weights, linear(weights, "value", x))
    forget, write, read = linear(weights, "gates", value).chunk(3, dim=-1)
    kept = sigmoid(forget)
    if "exponent" in weights:
        kept = (1 / (1 + torch.exp(forget))) ** torch.relu(weights["exponent"])
    h, out = 0, []
    for t in range(x.shape[1]):
        h = kept[:, t] * h + sigmoid(write[:, t]) * value[:, t]
        out.append(sigmoid(read[:, t]) * h)
    return linear(weights, "out", gelu(linear(weights, "gate", x)) * torch.stack(out, dim=1))


def real_gated(weights, x):
    value = filtered(weights, linear(weights, "value", x))
    slow, write = linear(weights, "gates", value).chunk(2, dim=-1)
    kept = torch.exp(-8 * softplus(weights["rate"]) * sigmoid(slow))
    h, out = 0, []
    for t in range(x.shape[1]):
        h = kept[:, t] * h + torch.sqrt(1 - kept[:, t] ** 2) * sigmoid(write[:, t]) * value[:, t]
        out.append(h)
    return linear(weights, "out", gelu(linear(weights, "gate", x)) * torch.stack(out, dim=1))
