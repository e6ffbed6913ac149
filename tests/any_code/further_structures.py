"""More recurrent layers of nobody's, with the parameters of published families.

Each is a plain loop over the tokens as its paper has it. ``map`` gives the weights by which the
values of a token reach a later one: what a unit of value there leaves in the state, read here.
"""

import torch
from torch import nn
from torch.nn import functional
from torch.nn.functional import gelu, silu, softplus

MODEL, INNER, HEADS, SIZE, STATE = 6, 8, 2, 4, 3


def shifted(x):
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)


def heads(x):
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def linear(output, width, bias=False):
    return nn.Linear(width, output, bias=bias)


def vector(*sizes):
    return nn.Parameter(torch.zeros(sizes))


def weights_of(steps, seen, decayed, written):
    """``seen_i · decayed_i ... decayed_j+1 written_j``, every decay a matrix: one head."""
    found = torch.zeros(steps, steps, dtype=written.dtype)
    for j in range(steps):
        held = written[j]
        found[j, j] = (seen[j] * held).sum().real
        for i in range(j + 1, steps):
            held = decayed[i] @ held
            found[i, j] = (seen[i] * held).sum().real
    return found.real


class Walked(nn.Module):
    """A matrix memory, ``S_t = A_t S_t-1 + k_t v_tᵀ``, read after or before the update."""

    before = False

    def forward(self, x, first=None):
        decays, keys, values, queries, own = self.parts(x, first)
        state = torch.zeros(len(x), HEADS, keys.shape[-1], values.shape[-1]).to(x)
        outputs = []
        for t in range(x.shape[1]):
            old = state
            new = keys[:, :, t, :, None] * values[:, :, t, None]
            state = decays[:, :, t] @ state + new
            read = old if self.before else state
            y = (queries[:, :, t, None] @ read).squeeze(-2) + own[:, :, t, None] * values[:, :, t]
            outputs.append(y.flatten(1))
        return self.leave(x, torch.stack(outputs, dim=1), first)

    def map(self, x, first=None):
        decays, keys, _, queries, own = self.parts(x, first)
        steps = x.shape[1]
        found = torch.zeros(len(x), HEADS, steps, steps, dtype=x.dtype)
        for sample, head in torch.cartesian_prod(torch.arange(len(x)), torch.arange(HEADS)):
            chosen = (part[sample, head] for part in (queries, decays, keys))
            seen, decayed, written = chosen
            if self.before:  # what is read at i has not passed through the decay of i
                for i in range(steps):
                    for j in range(i):
                        held = written[j]
                        for k in range(j + 1, i):
                            held = decayed[k] @ held
                        found[sample, head, i, j] = seen[i] @ held
            else:
                found[sample, head] = weights_of(steps, seen, decayed, written)
            found[sample, head] += own[sample, head].diag()
        return found


def normed(x, norm):
    return functional.group_norm(x.flatten(0, 1), HEADS, norm.weight, norm.bias, norm.eps).view_as(
        x
    )


class Receptance6(Walked):
    """RWKV-6 (arXiv:2404.05892)."""

    before, halves = True, 1.0

    def __init__(self):
        super().__init__()
        for name in "xwkvrg":
            setattr(self, f"time_maa_{name}", vector(1, 1, MODEL))
        self.time_maa_w1, self.time_maa_w2 = vector(MODEL, 5 * 2), vector(5, 2, MODEL)
        self.time_decay, self.time_faaaa = vector(1, 1, INNER), vector(HEADS, SIZE)
        self.time_decay_w1, self.time_decay_w2 = vector(MODEL, 3), vector(3, INNER)
        for name in ("receptance", "key", "value", "gate"):
            setattr(self, name, linear(INNER, MODEL))
        self.output, self.ln_x = linear(MODEL, INNER), nn.GroupNorm(HEADS, INNER, eps=64e-5)

    def blends(self, x):
        delta = shifted(x) - x
        low = torch.tanh((x + delta * self.time_maa_x) @ self.time_maa_w1).chunk(5, dim=-1)
        return {
            name: x + delta * (getattr(self, f"time_maa_{name}") + part @ back)
            for name, part, back in zip("wkvrg", low, self.time_maa_w2, strict=True)
        }

    def parts(self, x, _first):
        seen = self.blends(x)
        raw = self.time_decay + torch.tanh(seen["w"] @ self.time_decay_w1) @ self.time_decay_w2
        key, query = heads(self.key(seen["k"])), heads(self.receptance(seen["r"]))
        own = (query * self.time_faaaa[:, None] * key).sum(-1)
        decays = (-heads(raw).exp()).exp().diag_embed()
        return decays, key, heads(self.value(seen["v"])), query, own * self.halves

    def leave(self, x, y, _first):
        return self.output(normed(y, self.ln_x) * silu(self.gate(self.blends(x)["g"])))


class HalvedBonus(Receptance6):
    halves = 0.5


class Receptance7(Walked):
    """RWKV-7 (arXiv:2503.14456), behind the first layer."""

    def __init__(self):
        super().__init__()
        for name in "rwkvag":
            setattr(self, f"x_{name}", vector(1, 1, INNER))
        for name, rank in (("w", 3), ("a", 2), ("v", 2)):
            setattr(self, f"{name}0", vector(1, 1, INNER))
            setattr(self, f"{name}1", vector(INNER, rank))
            setattr(self, f"{name}2", vector(rank, INNER))
        self.g1, self.g2, self.r_k = vector(INNER, 5), vector(5, INNER), vector(HEADS, SIZE)
        self.k_k, self.k_a = vector(1, 1, INNER), vector(1, 1, INNER)
        for name in ("receptance", "key", "value", "output"):
            setattr(self, name, linear(INNER, INNER))
        self.ln_x = nn.GroupNorm(HEADS, INNER, eps=64e-5)

    def low(self, name, x, act=lambda x: x):
        one, two = getattr(self, f"{name}1"), getattr(self, f"{name}2")
        return getattr(self, f"{name}0") + act(x @ one) @ two

    def blend(self, name, x):
        return x + (shifted(x) - x) * getattr(self, f"x_{name}")

    def parts(self, x, first):
        decay = -softplus(-self.low("w", self.blend("w", x), torch.tanh)) - 0.5
        key, value = self.key(self.blend("k", x)), self.value(self.blend("v", x))
        value = value + (first - value) * self.low("v", self.blend("v", x)).sigmoid()
        rate = self.low("a", self.blend("a", x)).sigmoid()
        removal = functional.normalize(heads(key * self.k_k), dim=-1)
        key = heads(key * (1 + (rate - 1) * self.k_a))
        erased = (removal * heads(rate))[..., None] * removal[..., None, :]
        decays = (-heads(decay).exp()).exp().diag_embed() - erased
        query = heads(self.receptance(self.blend("r", x)))
        return decays, key, heads(value), query, torch.zeros_like(query[..., 0])

    def leave(self, x, y, first):
        _, key, value, query, _ = self.parts(x, first)
        own = (query * key * self.r_k[:, None]).sum(-1, keepdim=True) * value
        y = normed(y, self.ln_x) + own.transpose(1, 2).flatten(2)
        gate = (self.blend("g", x) @ self.g1).sigmoid() @ self.g2
        return self.output(y * gate)


class AfterAnother(nn.Module):
    """A layer of RWKV-7 that is given the values of the one before."""

    def __init__(self, inner):
        super().__init__()
        self.first, self.layer = linear(INNER, MODEL), inner
        self.back, self.enter = linear(MODEL, INNER), linear(INNER, MODEL)

    def given(self, x):
        return self.enter(x), self.first(x)

    def forward(self, x):
        return self.back(self.layer(*self.given(x)))


class Delta(Walked):
    """Gated DeltaNet (arXiv:2412.06464): two heads of values share one of keys."""

    shared = 1

    def __init__(self):
        super().__init__()
        keys = self.shared * SIZE
        self.q_proj, self.k_proj = linear(keys, MODEL), linear(keys, MODEL)
        self.v_proj, self.g_proj = linear(INNER, MODEL), linear(INNER, MODEL)
        self.a_proj, self.b_proj = linear(HEADS, MODEL), linear(HEADS, MODEL)
        self.A_log, self.dt_bias = vector(HEADS), vector(HEADS)
        for name, width in (("q", keys), ("k", keys), ("v", INNER)):
            conv = nn.Conv1d(width, width, 3, groups=width, padding=2, bias=False)
            setattr(self, f"{name}_conv1d", conv)
        self.o_norm = nn.Module()
        self.o_norm.weight, self.o_norm.eps = nn.Parameter(torch.ones(SIZE)), 1e-6
        self.o_proj = linear(MODEL, INNER)

    def convolved(self, name, x):
        y = getattr(self, f"{name}_proj")(x).mT
        return silu(getattr(self, f"{name}_conv1d")(y)[..., : x.shape[1]].mT)

    def rate(self, x):
        return self.b_proj(x).sigmoid().mT

    def parts(self, x, _first):
        query, key = (
            functional.normalize(
                self.convolved(name, x).unflatten(-1, (self.shared, -1)).transpose(1, 2), dim=-1
            ).repeat_interleave(HEADS // self.shared, dim=1)
            for name in "qk"
        )
        rate, identity = self.rate(x), torch.eye(SIZE, dtype=x.dtype)
        decay = (-self.A_log.exp() * softplus(self.a_proj(x) + self.dt_bias)).exp().mT
        erased = identity - rate[..., None, None] * key[..., None] * key[..., None, :]
        written, zero = rate[..., None] * key, torch.zeros_like(rate)
        values = heads(self.convolved("v", x))
        return decay[..., None, None] * erased, written, values, query * SIZE**-0.5, zero

    def leave(self, x, y, _first):
        y = y.unflatten(-1, (HEADS, -1))
        y = y / (y.square().mean(-1, keepdim=True) + self.o_norm.eps).sqrt() * self.o_norm.weight
        return self.o_proj(y.flatten(-2) * silu(self.g_proj(x)))


class DeltaCubed(Delta):
    def rate(self, x):
        return super().rate(x) ** 3


class Channels(nn.Module):
    """A state for every channel: ``h = decay h + write v``."""

    def forward(self, x):
        decay, write, values, gate = self.parts(x)
        state, outputs = torch.zeros_like(values[:, 0]), []
        for t in range(x.shape[1]):
            state = decay[:, t] * state + write[:, t] * values[:, t]
            outputs.append(state)
        return self.leave(torch.stack(outputs, dim=1) * gate)

    def map(self, x):
        decay, write, _, _ = self.parts(x)
        steps = x.shape[1]
        found = torch.zeros(len(x), decay.shape[-1], steps, steps, dtype=x.dtype)
        for i in range(steps):
            for j in range(i + 1):
                found[:, :, i, j] = decay[:, j + 1 : i + 1].prod(dim=1) * write[:, j]
        return found


class Smallest(Channels):
    """minLSTM (arXiv:2410.01201), gates divided by their sum."""

    def __init__(self):
        super().__init__()
        self.linear_f, self.linear_i = linear(INNER, MODEL, True), linear(INNER, MODEL, True)
        self.linear_h, self.to_out = linear(INNER, MODEL, True), linear(MODEL, INNER)

    def parts(self, x):
        forget, written = self.linear_f(x).sigmoid(), self.linear_i(x).sigmoid()
        total = forget + written
        return forget / total, written / total, self.linear_h(x), 1.0

    def leave(self, y):
        return self.to_out(y)


class SmallestInOne(Smallest):
    def __init__(self):
        super().__init__()
        del self.linear_f, self.linear_i, self.linear_h
        self.to_hidden_and_f_i_gate = linear(3 * INNER, MODEL)

    def parts(self, x):
        hidden, forget, written = self.to_hidden_and_f_i_gate(x).chunk(3, dim=-1)
        forget, written = forget.sigmoid(), written.sigmoid()
        value = torch.where(hidden >= 0, hidden + 0.5, hidden.sigmoid())
        return forget / (forget + written), written / (forget + written), value, 1.0


class SmallestSquared(Smallest):
    def parts(self, x):
        forget, written, values, gate = super().parts(x)
        return forget**2, written, values, gate


class Griffin(Channels):
    """The recurrent block of Griffin (arXiv:2402.19427)."""

    sharpness = 8.0

    def __init__(self):
        super().__init__()
        self.linear_x, self.linear_y = linear(INNER, MODEL, True), linear(INNER, MODEL, True)
        self.linear_out, self.conv_1d = linear(MODEL, INNER, True), nn.Module()
        self.conv_1d.w, self.conv_1d.b = vector(4, INNER), vector(INNER)
        self.rg_lru = nn.Module()
        self.rg_lru.a_param = vector(INNER)
        for name in ("input_gate", "a_gate"):
            gate = nn.Module()
            gate.w, gate.b = vector(HEADS, SIZE, SIZE), vector(HEADS, SIZE)
            setattr(self.rg_lru, name, gate)

    def block(self, gate, x):
        y = torch.einsum("sthi,hij->sthj", x.unflatten(-1, (HEADS, -1)), gate.w) + gate.b
        return y.flatten(-2).sigmoid()

    def parts(self, x):
        y, values = self.linear_x(x), self.conv_1d.b
        for lag in range(4):
            moved = torch.cat([torch.zeros_like(y[:, :lag]), y[:, : y.shape[1] - lag]], dim=1)
            values = values + self.conv_1d.w[3 - lag] * moved
        speed = self.block(self.rg_lru.a_gate, values) * softplus(self.rg_lru.a_param)
        decay = (-self.sharpness * speed).exp()
        first = torch.zeros_like(decay)
        first[:, 0] = 1
        write = first + (1 - first) * (1 - decay**2).sqrt()
        gate = gelu(self.linear_y(x), approximate="tanh")
        return decay, write * self.block(self.rg_lru.input_gate, values), values, gate

    def leave(self, y):
        return self.linear_out(y)


class Duller(Griffin):
    sharpness = 4.0


class Receptance4(nn.Module):
    """RWKV-4 (arXiv:2305.13048) under the names of its authors."""

    def __init__(self):
        super().__init__()
        self.time_decay, self.time_first = vector(INNER), vector(INNER)
        for name in "kvr":
            setattr(self, f"time_mix_{name}", vector(1, 1, MODEL))
        for name in ("key", "value", "receptance"):
            setattr(self, name, linear(INNER, MODEL))
        self.output = linear(MODEL, INNER)

    def part(self, name, x):
        mix = getattr(self, f"time_mix_{name[0]}")
        return getattr(self, name)(x * mix + shifted(x) * (1 - mix))

    def map(self, x):
        key, steps = self.part("key", x), x.shape[1]
        found = torch.zeros(len(x), INNER, steps, steps, dtype=x.dtype)
        for i in range(steps):
            for j in range(i):
                found[:, :, i, j] = (key[:, j] - (i - 1 - j) * self.time_decay.exp()).exp()
            found[:, :, i, i] = (key[:, i] + self.time_first).exp()
        return found / found.sum(dim=-1, keepdim=True)

    def forward(self, x):
        y = torch.einsum("scij,sjc->sic", self.map(x), self.part("value", x))
        return self.output(self.part("receptance", x).sigmoid() * y)


class Receptance4Sharper(Receptance4):
    def map(self, x):
        found = super().map(x) ** 2
        return found / found.sum(dim=-1, keepdim=True)


class Spaces(nn.Module):
    """A time-invariant diagonal state space of all channels: LRU and S5."""

    def spaces(self):
        """Decay, write, read, feedthrough."""
        raise NotImplementedError

    def forward(self, x):
        decay, write, read, through = self.spaces()
        state, outputs = 0, []
        for t in range(x.shape[1]):
            state = decay * state + x[:, t].to(write.dtype) @ write.mT
            outputs.append((state @ read.to(state.dtype).mT).real + x[:, t] @ through.mT)
        return torch.stack(outputs, dim=1)

    def map(self, x):
        decay, write, read, through = self.spaces()
        steps = x.shape[1]
        found = torch.zeros(len(x), steps, len(read), steps, write.shape[-1], dtype=x.dtype)
        for i in range(steps):
            for j in range(i + 1):
                found[:, i, :, j] = (read * decay ** (i - j) @ write).real
            found[:, i, :, i] += through
        return found.flatten(3).flatten(1, 2)


class Unit(Spaces):
    """LRU (arXiv:2303.06349), its complex numbers in two parameters."""

    power = 1

    def __init__(self):
        super().__init__()
        self.nu_log, self.theta_log, self.gamma_log = vector(STATE), vector(STATE), vector(STATE)
        self.B_re, self.B_im = vector(STATE, MODEL), vector(STATE, MODEL)
        self.C_re, self.C_im, self.D = vector(MODEL, STATE), vector(MODEL, STATE), vector(MODEL)

    def spaces(self):
        decay = torch.exp(torch.complex(-self.nu_log.exp(), self.theta_log.exp()))
        write = torch.complex(self.B_re, self.B_im) * (self.power * self.gamma_log).exp()[:, None]
        return decay, write, torch.complex(self.C_re, self.C_im), self.D.diag()


class UnitComplex(Unit):
    """The same with complex parameters, and a matrix from input to output."""

    def __init__(self):
        super().__init__()
        del self.B_re, self.B_im, self.C_re, self.C_im, self.D
        rng = torch.Generator().manual_seed(5)
        self.B = nn.Parameter(torch.randn(STATE, MODEL, dtype=torch.complex64, generator=rng))
        self.C = nn.Parameter(torch.randn(MODEL, STATE, dtype=torch.complex64, generator=rng))
        self.D = vector(MODEL, MODEL)

    def spaces(self):
        decay = torch.exp(torch.complex(-self.nu_log.exp(), self.theta_log.exp()))
        return decay, self.B * self.gamma_log.exp()[:, None], self.C, self.D


class UnitSquared(Unit):
    power = 2


class Simplified(Spaces):
    """S5 (arXiv:2208.04933), half of the spectrum, by the trapezoidal rule."""

    def __init__(self):
        super().__init__()
        self.Lambda_re, self.Lambda_im = vector(STATE), vector(STATE)
        self.B, self.C = vector(STATE, MODEL, 2), vector(MODEL, STATE, 2)
        self.D, self.log_step = vector(MODEL), vector(STATE, 1)

    def spaces(self):
        half = torch.complex(self.Lambda_re, self.Lambda_im) * self.log_step.exp().squeeze(-1) / 2
        write = torch.view_as_complex(self.B) * (self.log_step.exp() / (1 - half)[:, None])
        return (1 + half) / (1 - half), write, 2 * torch.view_as_complex(self.C), self.D.diag()


class Structured(nn.Module):
    """S4D (arXiv:2206.11893): channels second, a kernel of its own, a convolution by FFT."""

    hold = True

    def __init__(self):
        super().__init__()
        self.kernel = nn.Module()
        self.kernel.log_dt, self.kernel.log_A_real = vector(INNER), vector(INNER, STATE)
        self.kernel.A_imag, self.kernel.C = vector(INNER, STATE), vector(INNER, STATE, 2)
        self.D = vector(INNER)
        self.output_linear = nn.Sequential(nn.Conv1d(INNER, 2 * INNER, 1), nn.GLU(dim=-2))

    def weights(self, steps):
        step, read = self.kernel.log_dt.exp()[:, None], torch.view_as_complex(self.kernel.C)
        pole = torch.complex(-self.kernel.log_A_real.exp(), self.kernel.A_imag)
        gain = ((step * pole).exp() - 1) / pole if self.hold else step.expand_as(pole)
        powers = (step * pole)[..., None] * torch.arange(steps, dtype=step.dtype)
        return 2 * torch.einsum("cn,cn,cnt->ct", read, gain.to(read.dtype), powers.exp()).real

    def forward(self, x):
        steps = x.shape[-1]
        kernel, values = (torch.fft.rfft(part, n=2 * steps) for part in (self.weights(steps), x))
        y = torch.fft.irfft(kernel * values, n=2 * steps)[..., :steps]
        return self.output_linear(gelu(y + self.D[:, None] * x)), None

    def map(self, x):
        steps = x.shape[-1]
        found, weights = torch.zeros(INNER, steps, steps, dtype=x.dtype), self.weights(steps)
        for lag in range(steps):
            found += torch.diag_embed(weights[:, lag, None].expand(-1, steps - lag), offset=-lag)
        return (found + self.D[:, None, None] * torch.eye(steps)).expand(len(x), -1, -1, -1)


class StructuredByEuler(Structured):
    hold = False


class InSecond(nn.Module):
    """A layer with channels second between projections that have them last."""

    def __init__(self, inner):
        super().__init__()
        self.enter, self.layer, self.back = linear(INNER, MODEL), inner, linear(MODEL, INNER)

    def given(self, x):
        return (self.enter(x).mT,)

    def forward(self, x):
        return self.back(self.layer(*self.given(x))[0].mT)


FURTHER = {
    "RWKV-4": (Receptance4, "RWKV4"),
    "RWKV-6": (Receptance6, "RWKV6"),
    "RWKV-7": (lambda: AfterAnother(Receptance7()), "RWKV7"),
    "gated delta rule": (Delta, "GatedDeltaNet"),
    "RG-LRU": (Griffin, "RGLRU"),
    "minLSTM": (Smallest, "MinLSTM"),
    "minLSTM, one projection": (SmallestInOne, "MinLSTM"),
    "LRU": (Unit, "LRU"),
    "LRU, complex parameters": (UnitComplex, "LRU"),
    "S5": (Simplified, "S5"),
    "S4D": (lambda: InSecond(Structured()), "DiagonalStateSpace"),
}
FURTHER_DECOYS = {
    "squared weights": (Receptance4Sharper, "RWKV-4"),
    "half a bonus": (HalvedBonus, "RWKV-6"),
    "cubed rate": (DeltaCubed, "a gated delta rule"),
    "half as sharp": (Duller, "the recurrent block of Griffin"),
    "squared forget gate": (SmallestSquared, "minLSTM"),
    "squared gain": (UnitSquared, "LRU"),
    "Euler's rule": (lambda: InSecond(StructuredByEuler()), "S4D"),
}
