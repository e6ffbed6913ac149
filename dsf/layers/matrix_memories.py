"""Layers with a matrix for a state: gated linear attention, MetaLA and the delta rule."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dsf import mixers
from dsf.evaluate import respond
from dsf.layers.layer import Layer, Memory, Tokens, divide, draw_weights, merge, split
from dsf.layers.recurrent import ShortFilter
from dsf.runtime.argument_checks import checked

RANK = 16
TEMPERATURE = 16


class GatedLinearAttention(Layer):
    """Linear attention with low-rank decay ``σ(x W₁ W₂ + b)^{1/16}`` and gate ``SiLU(x W + b)``.

    The response is normalised per head (LayerNorm without weights) before the output gate.
    With ``d = model_size`` and ``n = key_size`` the matrices have ``3 d^2 + 2 d n + 16 (d + n)``
    entries, ``4 d^2 + 24 d`` at n = d / 2; the biases of decay and gate are ``n + d`` more.

    Args:
        model_size: d.
        key_size: n, the width of all queries together; by default d / 2.
        heads: the number of heads, which share both widths.

    Raises:
        ShapeError: if a width is not a multiple of ``heads``.

    Source: Yang et al. 2023, arXiv:2312.06635; this parametrisation: Chou et al. 2024,
    arXiv:2411.10741.
    """

    def __init__(self, model_size: int, *, key_size: int | None = None, heads: int = 1) -> None:
        super().__init__()
        keys = model_size // 2 if key_size is None else key_size
        divide("GatedLinearAttention", heads=heads, model_size=model_size, key_size=keys)
        self.heads, self.sizes = heads, [keys, keys, model_size]
        self.projections = nn.Linear(model_size, sum(self.sizes), bias=False)
        self.decay_low = nn.Linear(model_size, RANK, bias=False)
        self.decay = nn.Linear(RANK, keys)
        self.gate = nn.Linear(model_size, model_size)
        self.out = nn.Linear(model_size, model_size, bias=False)

    def mixer(self, x: Tokens, memory: Memory | None = None) -> mixers.GatedLinearAttention:
        query, key, value = self.projections(x).split(self.sizes, dim=-1)
        log_decay = functional.logsigmoid(self.decay(self.decay_low(x))) / TEMPERATURE
        return mixers.GatedLinearAttention(
            query=split(query, self.heads),
            key=split(key, self.heads),
            value=split(value, self.heads),
            log_decay=split(log_decay, self.heads),
        )

    def finish(self, x: Tokens, mixed: Tensor) -> Tokens:
        normal = functional.layer_norm(mixed, mixed.shape[-1:])
        return self.out(merge(normal) * functional.silu(self.gate(x)))


Coefficients = mixers.MetaLinearAttention | mixers.GatedLinearAttention


class MetaLinearAttention(Layer):
    r"""Linear attention with decay ``α = σ(x W)^{1/16}``, key ``1 - α``, gate ``SiLU(x W + b)``.

    With ``d = model_size``, ``n = key_size`` and a convolution of ``K`` taps it has
    ``3 d^2 + 2 d n + d`` parameters, ``n`` for the augmentation and ``K d`` for the convolution;
    the matrices alone are ``4 d^2`` at n = d / 2. The response is normalised per head (LayerNorm
    without weights) before the output gate.

    The augmentation adds ``σ(q_t.(w ⊙ (1 - α_t)) v_t)`` to the response. This is not linear in the
    values, so that no map contains it: ``mixer`` leaves it out and ``finish`` adds it. With
    ``augmentation="linear"`` there is no sigmoid, and the term is part of the mixer's map.

    Args:
        model_size: d.
        key_size: n, the width of all queries together; by default d / 2.
        heads: the number of heads, which share both widths.
        filter_width: K, the taps of a short convolution with SiLU on the input; None for none.
        augmentation: ``"sigmoid"`` as published, ``"linear"``, or None.
        with_key: whether the key is a separate projection instead of ``1 - α``.
        fixed_decay: whether the decay of each key channel is trained and the same for all tokens.

    Raises:
        ShapeError: if a width is not a multiple of ``heads``.
        ValueError: if ``augmentation`` is none of these, or linear together with ``with_key``.

    Source: Chou et al. 2024, arXiv:2411.10741.
    """

    @checked
    def __init__(
        self,
        model_size: int,
        *,
        key_size: int | None = None,
        heads: int = 1,
        filter_width: int | None = 4,
        augmentation: Literal["sigmoid", "linear"] | None = "sigmoid",
        with_key: bool = False,
        fixed_decay: bool = False,
    ) -> None:
        super().__init__()
        keys = model_size // 2 if key_size is None else key_size
        divide("MetaLinearAttention", heads=heads, model_size=model_size, key_size=keys)
        if augmentation == "linear" and with_key:
            raise ValueError(
                "MetaLinearAttention: a linear augmentation is part of the map of decay and query, "
                "which a separate key is not. Use augmentation='sigmoid' or None, or drop with_key."
            )
        self.heads, self.filter, self.key = heads, None, None
        if filter_width is not None:
            self.filter = ShortFilter(model_size, filter_width, bias=False)
        self.query = nn.Linear(model_size, keys, bias=False)
        if with_key:
            self.key = nn.Linear(model_size, keys, bias=False)
        self.value = nn.Linear(model_size, model_size, bias=False)
        self.decay = FixedLogit(keys) if fixed_decay else nn.Linear(model_size, keys, bias=False)
        self.linear, self.augmentation = augmentation == "linear", None
        if augmentation is not None:
            self.augmentation = nn.Parameter(torch.empty(heads, keys // heads))
        self.gate = nn.Linear(model_size, model_size)
        self.out = nn.Linear(model_size, model_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Projections from N(0, 0.02²), zero bias and augmentation, fixed decays of all lengths."""
        for part in self.children():
            if isinstance(part, nn.Linear):
                draw_weights(part)
            elif isinstance(part, FixedLogit | ShortFilter):
                part.reset_parameters()
        if self.augmentation is not None:
            nn.init.zeros_(self.augmentation)

    def mixer(self, x: Tokens, memory: Memory | None = None) -> Coefficients:
        return self._coefficients(self._filtered(x, memory))

    def finish(self, x: Tokens, mixed: Tensor) -> Tokens:
        filtered = self._filtered(x)
        return self._finished(filtered, self._coefficients(filtered), mixed)

    def forward(self, x: Tokens) -> Tokens:
        """Apply the layer to a whole sequence, from a state of zero; every projection runs once."""
        self._fits(x, "batch time model")
        filtered = self._filtered(x)
        mixer = self._coefficients(filtered)
        return self._finished(filtered, mixer, respond(mixer.system(), mixer.signal()))

    def step(
        self, token: Float[Tensor, "batch model"], memory: Memory | None = None
    ) -> tuple[Float[Tensor, "batch model"], Memory]:
        """Apply the layer to the next token; ``memory`` has the state and the last inputs."""
        self._fits(token, "batch model")
        memory = dict(memory or {})
        filtered = self._filtered(token.unsqueeze(-2), memory)
        mixer = self._coefficients(filtered)
        mixed = self.mix_token(mixer, memory)
        return self._finished(filtered, mixer, mixed).squeeze(-2), memory

    def _filtered(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        return x if self.filter is None else functional.silu(self.filter(x, memory))

    def _coefficients(self, filtered: Tensor) -> Coefficients:
        query, value = (split(part(filtered), self.heads) for part in (self.query, self.value))
        logit = self.decay(filtered)
        # In half precision the key, one minus a decay near one, would be lost.
        logit = logit.to(torch.promote_types(logit.dtype, torch.float32))
        log_decay = split(functional.logsigmoid(logit) / TEMPERATURE, self.heads)
        if self.key is not None:
            key = split(self.key(filtered), self.heads)
            return mixers.GatedLinearAttention(
                query=query, key=key, value=value, log_decay=log_decay
            )
        return mixers.MetaLinearAttention(
            query=query,
            value=value,
            decay=log_decay.exp(),
            augmentation=self.augmentation if self.linear else None,
        )

    def _finished(self, filtered: Tensor, mixer: Coefficients, mixed: Tensor) -> Tensor:
        if self.augmentation is not None and not self.linear:
            write = mixer.key if isinstance(mixer, mixers.GatedLinearAttention) else 1 - mixer.decay
            own = (mixer.query * self.augmentation.unsqueeze(-2) * write).sum(dim=-1, keepdim=True)
            mixed = mixed + (own * mixer.value).sigmoid().unsqueeze(-2)
        normal = functional.layer_norm(mixed, mixed.shape[-1:]).to(filtered.dtype)
        return self.out(merge(normal) * functional.silu(self.gate(filtered)))


class FixedLogit(nn.Module):
    """Trained logits that are the same for every token, initially evenly spaced from -8 to 8."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.empty(size))

    def reset_parameters(self) -> None:
        """Logits whose decays have half-lives from one token to tens of thousands."""
        with torch.no_grad():
            self.logit.copy_(torch.linspace(-8, 8, len(self.logit)))

    def forward(self, x: Tokens) -> Float[Tensor, "batch time key"]:
        """``logit``, repeated for every token of ``x``."""
        return self.logit.expand(*x.shape[:-1], -1)


class DeltaNet(Layer):
    """Delta rule on queries, keys and values after a short convolution and SiLU.

    Queries and keys are normalised to unit length.

    The rate is ``σ(x W)``, one for each head, so that no transition expands. The response is
    normalised per head (RMSNorm without weights). With ``d = model_size``,
    ``n = key_size`` and a convolution of K taps it has ``2 d^2 + 2 d n + d heads + K (2 n + d)``
    parameters.

    Args:
        model_size: d.
        key_size: n, the width of all queries together; by default d.
        heads: the number of heads, which share both widths.
        filter_width: K, the taps of the short convolution; None for none.

    Raises:
        ShapeError: if a width is not a multiple of ``heads``.

    Source: Yang et al. 2024, arXiv:2406.06484.
    """

    def __init__(
        self,
        model_size: int,
        *,
        key_size: int | None = None,
        heads: int = 1,
        filter_width: int | None = 4,
    ) -> None:
        super().__init__()
        keys = model_size if key_size is None else key_size
        divide("DeltaNet", heads=heads, model_size=model_size, key_size=keys)
        self.heads, self.sizes = heads, [keys, keys, model_size]
        self.projections = nn.Linear(model_size, sum(self.sizes), bias=False)
        self.filter = (
            None if filter_width is None else ShortFilter(sum(self.sizes), filter_width, bias=False)
        )
        self.rate = nn.Linear(model_size, heads, bias=False)
        self.out = nn.Linear(model_size, model_size, bias=False)

    def mixer(self, x: Tokens, memory: Memory | None = None) -> mixers.DeltaNet:
        projected = self.projections(x)
        if self.filter is not None:
            projected = self.filter(projected, memory)
        query, key, value = functional.silu(projected).split(self.sizes, dim=-1)
        return mixers.DeltaNet(
            query=functional.normalize(split(query, self.heads), dim=-1),
            key=functional.normalize(split(key, self.heads), dim=-1),
            value=split(value, self.heads),
            rate=self.rate(x).sigmoid().mT,
        )

    def finish(self, x: Tokens, mixed: Tensor) -> Tokens:
        normal = functional.rms_norm(mixed, mixed.shape[-1:], eps=1e-5)
        return self.out(merge(normal))
