"""Token mixers that no adapter was written for, each with the map that it must have, by formula.

Batch sizes equal head counts and lengths equal widths, so that no size tells an axis.
"""

import torch
from torch import nn
from torch.nn.functional import pad
from torch.nn.functional import scaled_dot_product_attention as fused
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

SIZE = 4
"""Samples, tokens, channels and heads."""
WIDTH = SIZE * SIZE


def drawn(module):
    """The module in evaluation mode with weights that make its maps uneven."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in module.parameters():
            part.copy_(torch.randn(part.shape, generator=rng) * 1.5 / max(part.shape[-1], 4) ** 0.5)
    return module.eval()


def tokens(*shape, seed=1):
    return torch.randn(shape or (SIZE, WIDTH, WIDTH), generator=torch.Generator().manual_seed(seed))


def in_heads(x, heads=SIZE):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merged(x):
    return x.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Softmax attention by three projections; what it does beside is in subclasses."""

    def __init__(self, *, is_fused=True, width=WIDTH, heads=SIZE):
        super().__init__()
        self.is_fused, self.heads = is_fused, heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def parts(self, x):
        return (in_heads(one(x), self.heads) for one in (self.q, self.k, self.v))

    def mix(self, q, k, v):
        if self.is_fused:
            return fused(q, k, v)
        return (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1) @ v

    def weights(self, x):
        """The map by formula, in float64."""
        with torch.no_grad():
            q, k, _ = (part.double() for part in self.parts(x))
            return (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1)

    def forward(self, x):
        return self.o(merged(self.mix(*self.parts(x))))


class WithConvolution(Attention):
    """Attention plus a convolution of its values (CSWin)."""

    def __init__(self, **options):
        super().__init__(**options)
        self.local = nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)

    def forward(self, x):
        q, k, v = self.parts(x)
        return self.o(merged(self.mix(q, k, v)) + self.local(merged(v).mT).mT)


class WithRunningMean(Attention):
    """Attention plus the mean of the values so far."""

    def forward(self, x):
        q, k, v = self.parts(x)
        count = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]
        return self.o(merged(self.mix(q, k, v)) + merged(v).cumsum(dim=1) / count)


class WithShift(Attention):
    """Attention plus the value of the token before."""

    def forward(self, x):
        q, k, v = self.parts(x)
        return self.o(merged(self.mix(q, k, v) + pad(v, (0, 0, 1, -1))))


class WithFourier(Attention):
    """Attention plus a Fourier transform over the tokens of its input."""

    def forward(self, x):
        return super().forward(x) + torch.fft.fft(x, dim=1).real


class WithChannelMeans(Attention):
    """Attention times a gate that is made of the mean over all tokens."""

    def forward(self, x):
        return super().forward(x) * x.mean(dim=1, keepdim=True).sigmoid()


class Difference(Attention):
    """The difference of two attentions on the same values."""

    def forward(self, x):
        q, k, v = self.parts(x)
        return self.o(merged(self.mix(q, k, v) - 0.5 * self.mix(k, q, v)))


LAG = torch.arange(WIDTH)[:, None] - torch.arange(WIDTH)
MEANS = (LAG >= 0) / torch.arange(1, WIDTH + 1)[:, None].double()
"""The means of the tokens so far."""


def _with_convolution(module, x):
    taps = module.local.weight.detach().double().squeeze(1)
    local = torch.where(LAG.abs() <= 1, taps[:, (1 - LAG).clamp(0, 2)], 0)
    return module.weights(x).repeat_interleave(SIZE, dim=1) + local


JOINED = {
    WithConvolution: _with_convolution,
    WithRunningMean: lambda module, x: module.weights(x) + MEANS,
    WithShift: lambda module, x: module.weights(x) + (LAG == 1).double(),
}
"""The map of the attention and of what else the module does to its values, together."""


class ChannelAttention(Attention):
    """Attention across channels (XCiT): its values stay at their tokens."""

    def forward(self, x):
        q, k, v = (part.mT for part in self.parts(x))
        return self.o(merged(self.mix(q, k, v).mT))


class HeadsBeforeSamples(Attention):
    """Heads stacked in front of the samples (Set Transformer)."""

    def forward(self, x):
        q, k, v = (torch.cat(one(x).split(WIDTH // SIZE, 2), 0) for one in (self.q, self.k, self.v))
        return self.o(torch.cat(self.mix(q, k, v).split(x.shape[0], 0), 2))


class HeadsBehindSamples(Attention):
    """Samples and heads in one axis, samples first, as ``torch.bmm`` wants them."""

    def forward(self, x):
        q, k, v = (part.flatten(0, 1) for part in self.parts(x))
        return self.o(merged(self.mix(q, k, v).unflatten(0, (x.shape[0], SIZE))))


class HeadsLast(Attention):
    """An inner product laid out ``sample token head channel``, as flash attention has it."""

    def forward(self, x):
        q, k, v = (one(x).unflatten(-1, (SIZE, -1)) for one in (self.q, self.k, self.v))
        weights = torch.softmax(torch.einsum("blhe,bshe->bhls", q, k) * q.shape[-1] ** -0.5, -1)
        return self.o(torch.einsum("bhls,bshd->blhd", weights, v).flatten(2))


class InnerHeadsLast(Attention):
    """The same product in a module of its own, whose output no projection follows inside."""

    def __init__(self, **options):
        super().__init__(**options)
        self.inner = Product()

    def forward(self, x):
        q, k, v = (one(x).unflatten(-1, (SIZE, -1)) for one in (self.q, self.k, self.v))
        return self.o(self.inner(q, k, v).flatten(2))


class Product(nn.Module):
    def forward(self, q, k, v):
        weights = torch.softmax(torch.einsum("blhe,bshe->bhls", q, k) * q.shape[-1] ** -0.5, -1)
        return torch.einsum("bhls,bshd->blhd", weights, v)


class ByInterface(Attention):
    """Attention as models of transformers call it."""

    def forward(self, x):
        q, k, v = self.parts(x)
        attention_interface = ALL_ATTENTION_FUNCTIONS["sdpa"]
        mixed, _ = attention_interface(self, q, k, v, None, is_causal=False)
        return self.o(mixed.flatten(2))


class ChannelsByInterface(Attention):
    """The same across channels (Florence-2)."""

    def forward(self, x):
        q, k, v = (part.mT for part in self.parts(x))
        attention_interface = ALL_ATTENTION_FUNCTIONS["sdpa"]
        mixed, _ = attention_interface(self, q, k, v, None, is_causal=False)
        return self.o(merged(mixed.transpose(1, 2).mT))


class Windows(Attention):
    """Attention in windows, with five axes (NesT)."""

    def forward(self, x):
        q, k, v = (part.unflatten(2, (SIZE, -1)) for part in self.parts(x))
        return self.o(merged(self.mix(q, k, v).flatten(2, 3)))


class WindowsAsSamples(Attention):
    """The same with windows in the axis of the samples (Swin)."""

    def forward(self, x):
        q, k, v = (
            part.unflatten(2, (SIZE, -1)).transpose(1, 2).flatten(0, 1) for part in self.parts(x)
        )
        mixed = self.mix(q, k, v).unflatten(0, (x.shape[0], SIZE)).transpose(1, 2).flatten(2, 3)
        return self.o(merged(mixed))


class Slots(Attention):
    """Keys and values projected along the tokens first, to as many slots (Linformer)."""

    def __init__(self, **options):
        super().__init__(**options)
        self.along = nn.Parameter(torch.zeros(WIDTH, WIDTH))

    def parts(self, x):
        q, k, v = super().parts(x)
        return q, self.along @ k, self.along @ v


class PooledKeys(Attention):
    """Keys and values averaged over neighbours (pyramid vision transformers)."""

    def parts(self, x):
        q, k, v = super().parts(x)
        return q, *(part.unflatten(2, (-1, 2)).mean(dim=3) for part in (k, v))


class LooksBack(Attention):
    """Keys and values with padding in front, as attention in windows that look back has it."""

    def parts(self, x):
        q, k, v = super().parts(x)
        return q, *(pad(part, (0, 0, 3, 0)) for part in (k, v))


class Flipped(Attention):
    """A backward branch: the module runs on the reversed sequence."""

    def forward(self, x):
        return super().forward(x.flip(1)).flip(1)


class Permuted(Attention):
    """The module runs on a permuted sequence."""

    def __init__(self, **options):
        super().__init__(**options)
        order = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(2))
        self.register_buffer("order", order)

    def forward(self, x):
        return super().forward(x[:, self.order])[:, self.order.argsort()]


class TimeFirst(Attention):
    """Given ``token sample channel``."""

    def forward(self, x):
        return super().forward(x.transpose(0, 1)).transpose(0, 1)


class ChannelsFirst(Attention):
    """Given ``sample channel token``, with projections by convolutions of width one."""

    def __init__(self, **options):
        super().__init__(**options)
        self.q, self.k, self.v, self.o = (nn.Conv1d(WIDTH, WIDTH, 1) for _ in range(4))

    def parts(self, x):
        return (one(x).unflatten(1, (SIZE, -1)).mT for one in (self.q, self.k, self.v))

    def forward(self, x):
        return self.o(self.mix(*self.parts(x)).mT.flatten(1, 2))


class Beside(nn.Module):
    """A block with an attention and another mixer, each with a residual connection."""

    def __init__(self, other, *, first=False, **options):
        super().__init__()
        self.norm, self.attention, self.other = nn.LayerNorm(WIDTH), Attention(**options), other
        self.first = first

    def forward(self, x):
        if self.first:
            x = x + self.other(x)
        x = x + self.attention(self.norm(x))
        return x if self.first else x + self.other(x)


class Computes(nn.Module):
    """A module of one function, with a projection before it."""

    def __init__(self, function, *, projects=True):
        super().__init__()
        self.function = function
        self.project = nn.Linear(WIDTH, WIDTH) if projects else nn.Identity()

    def forward(self, x):
        return self.function(self.project(x))


class OverTime(nn.Module):
    """A causal depthwise convolution over the tokens."""

    def __init__(self):
        super().__init__()
        self.filter = nn.Conv1d(WIDTH, WIDTH, 3, padding=2, groups=WIDTH)

    def forward(self, x):
        return self.filter(x.mT)[..., : x.shape[1]].mT


class TokenPerceptron(nn.Module):
    """A projection along the tokens (MLP-Mixer)."""

    def __init__(self):
        super().__init__()
        self.along = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.along(x.mT).mT


class Scan(nn.Module):
    """A recurrence token by token, written into an output buffer."""

    def __init__(self):
        super().__init__()
        self.decay, self.drive = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        out, state = torch.empty_like(x), torch.zeros_like(x[:, 0])
        decay, drive = self.decay(x).sigmoid(), self.drive(x)
        for t in range(x.shape[1]):
            state = decay[:, t] * state + drive[:, t]
            out[:, t] = state
        return out


class LinearHeads(nn.Module):
    """Linear attention without any softmax."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x):
        q, k, v = (in_heads(one(x)) for one in (self.q, self.k, self.v))
        return merged(q @ (k.mT @ v))


class LongConvolution(nn.Module):
    """A convolution as long as the sequence, by a Fourier transform (Hyena, S4)."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(WIDTH, WIDTH))

    def forward(self, x):
        size = 2 * x.shape[1]
        product = torch.fft.rfft(x.mT, size) * torch.fft.rfft(self.kernel, size)
        return torch.fft.irfft(product, size)[..., : x.shape[1]].mT


class ComplexScan(nn.Module):
    """A diagonal recurrence with complex parameters (S5, LRU)."""

    def __init__(self):
        super().__init__()
        self.pole = nn.Parameter(torch.zeros(WIDTH, dtype=torch.complex64))
        self.write = nn.Parameter(torch.zeros(WIDTH, WIDTH, dtype=torch.complex64))

    def forward(self, x):
        drive, state, out = x.to(torch.complex64) @ self.write, 0, []
        for each in drive.unbind(1):
            state = torch.polar(torch.tensor(0.9), self.pole.imag) * state + each
            out.append(state.real)
        return torch.stack(out, 1)


MIXERS = {
    "cumulative sum": lambda: Computes(lambda x: x.cumsum(dim=1)),
    "Fourier transform": lambda: Computes(lambda x: torch.fft.fft2(x).real),
    "shift": lambda: Computes(lambda x: pad(x, (0, 0, 1, -1))),
    "half shifted": lambda: nn.Sequential(
        Computes(
            lambda x: torch.cat([x[..., :8], pad(x[..., 8:], (0, 0, 1, -1))], dim=-1),
            projects=False,
        ),
        nn.Linear(WIDTH, WIDTH),
    ),
    "roll": lambda: Computes(lambda x: x.roll(1, dims=1)),
    "flip": lambda: Computes(lambda x: x.flip(1)),
    "mean gate": lambda: Computes(lambda x: x * x.mean(dim=1, keepdim=True)),
    "norm over tokens": lambda: Computes(lambda x: x / x.norm(dim=1, keepdim=True)),
    "fixed matrix": lambda: Computes(lambda x: torch.ones(x.shape[1], x.shape[1]).tril() @ x),
    "convolution": OverTime,
    "pooling": lambda: Computes(lambda x: nn.functional.avg_pool1d(x.mT, 3, 1, 1).mT),
    "token perceptron": TokenPerceptron,
    "scan": Scan,
    "linear attention": LinearHeads,
    "long convolution": LongConvolution,
    "complex scan": ComplexScan,
    "sums at an index": lambda: Computes(
        lambda x: torch.zeros_like(x).index_add(1, torch.arange(x.shape[1]) // 2, x)
    ),
    "scattered sums": lambda: Computes(
        lambda x: torch.zeros_like(x).scatter_add(
            1, (torch.arange(x.shape[1]) // 2)[:, None].expand_as(x), x
        )
    ),
    "added to a place that is taken": lambda: Computes(
        lambda x: (
            x.mT.mT.transpose(0, 1)
            .index_put((torch.arange(2),), x[:, 3:5].transpose(0, 1), accumulate=True)
            .transpose(0, 1)
        )
    ),
    "norm of a sample": lambda: nn.Sequential(
        Computes(lambda x: x.mT), nn.InstanceNorm1d(WIDTH), Computes(lambda x: x.mT, projects=False)
    ),
    "norm of a batch": lambda: Computes(
        lambda x: nn.functional.batch_norm(x.mT, None, None, training=True).mT
    ),
    "vectorised": lambda: Computes(torch.func.vmap(lambda x: x.cumsum(dim=0))),
}
"""Modules that mix tokens beside an attention, and that nothing reads."""

KEEP_APART = {
    "perceptron": lambda: nn.Sequential(nn.Linear(WIDTH, 8), nn.GELU(), nn.Linear(8, WIDTH)),
    "scattered and gathered": lambda: Computes(
        lambda x: (
            torch.zeros_like(x)
            .index_add(1, torch.arange(x.shape[1]).roll(3), x)
            .tanh()
            .index_select(1, torch.arange(x.shape[1]).roll(3))
        )
    ),
    "channel roll": lambda: Computes(lambda x: x.roll(1, dims=-1)),
    "twice flipped": lambda: Computes(lambda x: x.flip(1).tanh().flip(1)),
    "token by token": lambda: Computes(
        lambda x: torch.stack([each.tanh() for each in x.unbind(1)], dim=1)
    ),
    "convolution of width one": lambda: nn.Sequential(
        Computes(lambda x: x.mT),
        nn.Conv1d(WIDTH, WIDTH, 1),
        Computes(lambda x: x.mT, projects=False),
    ),
    "stored statistics": lambda: nn.Sequential(
        Computes(lambda x: x.mT), nn.BatchNorm1d(WIDTH), Computes(lambda x: x.mT, projects=False)
    ),
    "norm of channels": lambda: nn.GroupNorm(1, WIDTH, affine=False),
}
