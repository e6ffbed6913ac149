"""What each architecture computes, straight from its formula: sums over the past, no recurrence."""

import torch
from jaxtyping import Float, Inexact
from torch import Tensor


def softmax_weights(
    query: Float[Tensor, "*batch time key"], key: Float[Tensor, "*batch time key"]
) -> Float[Tensor, "*batch time time"]:
    """exp(q_i.k_j / sqrt(m)) over its sum, j <= i."""
    scores = (query @ key.mT / query.shape[-1] ** 0.5).exp().tril()
    return scores / scores.sum(dim=-1, keepdim=True)


def kernel_weights(
    read: Float[Tensor, "*batch time state"],
    write: Float[Tensor, "*batch time state"],
    normaliser: Float[Tensor, "*batch time"] | None = None,
) -> Float[Tensor, "*batch time time"]:
    """φ_i.ψ_j / η_i, j <= i; η_i is the sum of the row when absent."""
    scores = (read @ write.mT).tril()
    divisor = scores.sum(dim=-1) if normaliser is None else normaliser
    return scores / divisor.unsqueeze(-1)


def by_heads(
    weights: Float[Tensor, "head time time"], value: Float[Tensor, "head time channel"]
) -> Float[Tensor, "time model"]:
    """Every head's weights on its values, side by side."""
    return (weights @ value).transpose(0, 1).flatten(-2)


def unrolled(
    decay: Inexact[Tensor, "..."], drive: Inexact[Tensor, "..."]
) -> Inexact[Tensor, "..."]:
    """Σ_{j<=i} decay_{j+1} ... decay_i drive_j, written out; tokens along the first axis."""
    return torch.stack(
        [
            sum((decay[j + 1 : i + 1].prod(dim=0) * drive[j] for j in range(i + 1)), 0 * drive[i])
            for i in range(len(drive))
        ]
    )


def selective(
    x: Float[Tensor, "time channel"],
    step: Float[Tensor, "time channel"],
    rate: Float[Tensor, "channel state"],
    write: Float[Tensor, "time state"],
    read: Float[Tensor, "time state"],
) -> Float[Tensor, "time channel"]:
    """S6: y_i = Σ_j c_i.(exp(-Σ_{k=j+1..i} Δ_k A) Δ_j b_j) x_j, per channel."""
    decay = (-step.unsqueeze(-1) * rate).exp()
    drive = (step * x).unsqueeze(-1) * write.unsqueeze(-2)
    return (unrolled(decay, drive) * read.unsqueeze(-2)).sum(dim=-1)


def gated(
    x: Float[Tensor, "time channel"],
    forget: Float[Tensor, "time channel"],
    enter: Float[Tensor, "time channel"],
    leave: Float[Tensor, "time channel"],
) -> Float[Tensor, "time channel"]:
    """Gated recurrent networks: y_i = o_i Σ_j f_{j+1} ... f_i i_j x_j, per channel."""
    return leave * unrolled(forget, enter * x)


def expanded(
    x: Float[Tensor, "time channel"],
    decay: Float[Tensor, "time channel state"],
    write: Float[Tensor, "time state"],
    read: Float[Tensor, "time state"],
) -> Float[Tensor, "time channel"]:
    """State-expanded RG-LRU: b and c shared by the channels, input scaled by sqrt(1 - Λ²)."""
    drive = (1 - decay.square()).sqrt() * write.unsqueeze(-2) * x.unsqueeze(-1)
    return (unrolled(decay, drive) * read.unsqueeze(-2)).sum(dim=-1)


def constant(
    u: Float[Tensor, "time input"],
    A: Inexact[Tensor, "state state"],
    B: Inexact[Tensor, "state input"],
    C: Inexact[Tensor, "output state"],
) -> Float[Tensor, "time output"]:
    """Time-invariant: y_i = Re Σ_j C A^(i-j) B u_j."""
    lags = [C @ torch.linalg.matrix_power(A, lag) @ B for lag in range(len(u))]
    drive = u.to(A.dtype)
    rows = [
        sum((lags[i - j] @ drive[j] for j in range(i)), lags[0] @ drive[i]) for i in range(len(u))
    ]
    return torch.stack(rows).real
