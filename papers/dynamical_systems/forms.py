"""Every architecture of the paper as one system of its form, and as its own formula.

One state for all channels, driven by the layer's own input u: B = (I ⊗ b) W, C = I ⊗ c,
A = I ⊗ Λ. The formulas are sums over the past, with no recurrence.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

import dsf
from dsf import System, mixers
from papers.drawn import generator, normal, uniform

STEPS, MODEL, STATES, KEY = 14, 4, 3, 4
SERIES_ORDER = 40
"""Monomials up to this order give e^(q.k) to rounding where the key width is 1."""
NORMALISERS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "softplus": softplus,
    "sigmoid": torch.sigmoid,
}


@dataclass(frozen=True, eq=False)
class Form:
    """One architecture as a system, and what its own formula makes of the same input.

    Attributes:
        weights, projection: of attention, its matrices ζ and W_V.
    """

    name: str
    system: System
    u: Float[Tensor, "time input"]
    direct: Float[Tensor, "time output"]
    weights: Float[Tensor, "head time time"] | None = None
    projection: Float[Tensor, "channel input"] | None = None


def stacked(system: System, *, channels: int, projection: Tensor | None = None) -> System:
    """Give the channels of every head states of their own.

    Args:
        system: one head, or one channel, per entry of its one batch axis.
        channels: value channels that share one entry.
        projection: W, from the layer's input to all channels, head after head.
    """
    (entries,) = system.batch
    copies = [
        dsf.systems.algebra.select(system, entry)
        for entry in range(entries)
        for _ in range(channels)
    ]
    joint = dsf.systems.algebra.direct_sum(*copies)
    assert isinstance(joint, System)
    if projection is None:
        return joint
    B, D = joint.B @ projection.to(joint.B.dtype), joint.feedthrough @ projection.to(joint.D.dtype)
    return replace(joint, B=B, D=D)


def separable(
    read: Tensor, write: Tensor, normaliser: Tensor, *, divisor: Tensor | None = None
) -> System:
    """A_i = (η_{i-1}/η_i) I, B_i = ψ_i/divisor_i, C_i = φ_i; the divisor is η_i when absent."""
    ratios = normaliser[..., :-1] / normaliser[..., 1:]
    kept = torch.cat([torch.ones_like(normaliser[..., :1]), ratios], dim=-1)
    divisor = normaliser if divisor is None else divisor
    A = dsf.systems.transition.ScaledIdentity(kept, write.shape[-1])
    return System.from_write_and_read(A, write / divisor.unsqueeze(-1), read)


def kernel_weights(read: Tensor, write: Tensor, normaliser: Tensor | None = None) -> Tensor:
    """φ_i.ψ_j / η_i, j <= i; η_i is the sum of the row when absent."""
    scores = (read @ write.mT).tril()
    divisor = scores.sum(dim=-1) if normaliser is None else normaliser
    return scores / divisor.unsqueeze(-1)


def attention_forms(head_counts: Sequence[int] = (1, 2, 4)) -> Iterator[Form]:
    """Every attention-like row, with so many heads."""
    for heads in head_counts:
        rng = generator(heads)
        u, W = normal(rng, STEPS, MODEL), normal(rng, MODEL, MODEL)

        def cut(tokens: Tensor, heads: int = heads) -> Tensor:
            return tokens.unflatten(-1, (heads, -1)).transpose(0, 1)

        query, key = (cut(0.5 * u @ normal(rng, MODEL, KEY)) for _ in range(2))
        value = cut(u @ W.T)
        pre, eta = normal(rng, heads, STEPS), uniform(rng, heads, STEPS, low=0.5, high=2.0)
        tokens = {"query": query, "key": key, "value": value}
        softmax = mixers.SoftmaxAttention(**tokens)
        linear = mixers.LinearAttention(**tokens)
        bare = replace(linear, feature_map=dsf.mixers.ingredients.identity, normalised=False)
        features = (
            dsf.mixers.ingredients.elu_plus_one(query),
            dsf.mixers.ingredients.elu_plus_one(key),
        )
        exponentials = (query @ key.mT / query.shape[-1] ** 0.5).exp().tril()
        rows = exponentials / exponentials.sum(dim=-1, keepdim=True)
        forms = {
            "softmax attention, cache": (softmax.system(), rows),
            "separable attention": (separable(*features, eta), kernel_weights(*features, eta)),
            "linear attention, elu + 1": (linear.system(), kernel_weights(*features)),
            "linear attention, identity, not normalised": (
                bare.system(),
                kernel_weights(query, key, torch.ones_like(pre)),
            ),
        }
        if query.shape[-1] == 1:
            name = f"softmax attention, monomials to order {SERIES_ORDER}"
            forms[name] = (softmax.expansion(SERIES_ORDER).system(), rows)
        for name, g in NORMALISERS.items():
            mixer = mixers.NormalisedAttention(**tokens, normaliser=g(pre))
            forms[f"normalised attention, {name}"] = (
                mixer.system(),
                kernel_weights(query, key, g(pre)),
            )
        for name, (system, weights) in forms.items():
            yield Form(
                f"{name}, {heads} head{'s' if heads > 1 else ''}",
                stacked(system, channels=value.shape[-1], projection=W),
                u,
                (weights @ value).transpose(0, 1).flatten(-2),
                weights,
                W,
            )


def unrolled(decay: Tensor, drive: Tensor) -> Tensor:
    """Σ_{j<=i} decay_{j+1} ... decay_i drive_j, written out; tokens along the first axis."""
    rows = [
        sum((decay[j + 1 : i + 1].prod(dim=0) * drive[j] for j in range(i + 1)), 0 * drive[i])
        for i in range(len(drive))
    ]
    return torch.stack(rows)


def selective(x: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor) -> Tensor:
    """S6: y_i = Σ_j c_i.(exp(-Σ_{k=j+1..i} Δ_k A) Δ_j b_j) x_j, per channel."""
    decay = (-step.unsqueeze(-1) * rate).exp()
    drive = (step * x).unsqueeze(-1) * write.unsqueeze(-2)
    return (unrolled(decay, drive) * read.unsqueeze(-2)).sum(dim=-1)


def selective_forms() -> Iterator[Form]:
    """S6."""
    rng = generator()
    u = normal(rng, STEPS, MODEL)
    write, read = u @ normal(rng, MODEL, STATES), u @ normal(rng, MODEL, STATES)
    step = softplus(u @ normal(rng, MODEL, MODEL))
    rate, skip = uniform(rng, MODEL, STATES, low=0.2, high=2.0), normal(rng, MODEL)
    mamba = mixers.SelectiveStateSpace(
        value=u, step=step, pole=-rate, write=write, read=read, feedthrough=skip
    )
    direct = selective(u, step, rate, write, read) + skip * u
    yield Form("S6", stacked(mamba.system(), channels=1), u, direct)


def gated_forms() -> Iterator[Form]:
    """The quasi-LSTM and its variant, and the RG-LRU."""
    rng = generator(1)
    u, W = normal(rng, STEPS, MODEL), normal(rng, MODEL, MODEL)
    x = u @ W.T
    z, enter, leave = (u @ normal(rng, MODEL, MODEL) for _ in range(3))
    power = normal(rng).abs()
    gates = {"input": enter.sigmoid(), "output": leave.sigmoid()}
    forgets = {
        "quasi-LSTM": (z.sigmoid(), 1 / (1 + (-z).exp())),
        "quasi-LSTM, S6 transition": ((-z).sigmoid() ** power.relu(), (-power * softplus(z)).exp()),
    }
    for name, (forget, spelled) in forgets.items():
        lstm = mixers.QuasiLSTM(value=x, forget=forget, **gates)
        direct = gates["output"] * unrolled(spelled, gates["input"] * x)
        yield Form(name, stacked(lstm.system(), channels=1, projection=W), u, direct)
    decay = (-8 * softplus(normal(rng, MODEL) - 3) * z.sigmoid()).exp()
    unit = mixers.RGLRU(value=x, decay=decay, input_gate=gates["input"])
    direct = unrolled(decay, (1 - decay.square()).sqrt() * gates["input"] * x)
    yield Form("RG-LRU", stacked(unit.system(), channels=1, projection=W), u, direct)


def every_form() -> Iterator[Form]:
    """All architectures whose matrices the paper prints, drawn."""
    yield from attention_forms()
    yield from selective_forms()
    yield from gated_forms()
