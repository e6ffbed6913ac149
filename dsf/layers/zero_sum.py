"""Layers of zero-sum attention: by one logit for every token, in a scan, and by scores of pairs."""

from typing import cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from dsf import mixers
from dsf.layers.layer import (
    Layer,
    Memory,
    QueryKeyValue,
    advanced,
    divide,
    merge,
    read_from_cache,
    split,
    tokens_so_far,
)
from dsf.mixers.ingredients.matrix_memories import total_in_reach
from dsf.runtime.shapes import ShapeError

BASE = 10_000.0


def rotated(
    x: Float[Tensor, "*batch time key"], position: Float[Tensor, " time"], *, base: float = BASE
) -> Float[Tensor, "*batch time key"]:
    """``x`` with entries k and ``k + key / 2`` rotated by an angle proportional to the position.

    The angle is ``position base^(-2 k / key)`` radians. Lengths are preserved, and the product of
    two rotated vectors depends only on the difference of their positions. Angles are computed in
    the dtype of ``position``; half precision represents integers only up to 256 or 2048.

    Source: Su et al. 2021, arXiv:2104.09864.
    """
    half = x.shape[-1] // 2
    speed = base ** (-torch.arange(half, dtype=position.dtype, device=x.device) / half)
    angle = position.unsqueeze(-1) * speed
    first, second = x.chunk(2, dim=-1)
    cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


class NormedHeads(Layer):
    """A layer that normalises every head (LayerNorm without weights) before its projection."""

    def finish(
        self, x: Float[Tensor, "batch time model"], mixed: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "batch time model"]:
        normed = layer_norm(mixed, mixed.shape[-1:])
        return self.out(merge(normed))


class ZeroSumAttention(NormedHeads):
    r"""Attention by deviations from the mean, with one logit for every token.

        s_i = -u_i.ubar_i / sqrt(width)     ubar_i = (e^τ μ + Σ_{j<=i} u_j) / (e^τ + i)

    u is a projection, τ and μ are trained, and the first and higher order are sigmoids of
    projections of the query's token, one for each head. The response is normalised per head
    (LayerNorm without weights), so the first token of a causal layer, whose response is always
    zero, stays zero. In the encoder form all sums run over the whole sequence. With
    ``d = model_size = key_size`` and h heads it has ``5 (d^2 + d) + 3 h (d + 1) + d + h``
    parameters. Without ``zero_order``, h (d + 1) of them (the last third of ``orders``) have no
    effect, and without ``angle`` also d (the bias of ``value``).

    Args:
        model_size: d.
        key_size: the width of all queries, keys and u together; by default d.
        heads: h, the number of heads, which share both widths.
        angle: multiply every weight by the cosine of query and key. The radial weights alone sum to
            zero; rows with angles may have any sum.
        rotary: apply rotary position embedding to query and key.
        zero_order: add ``tanh(.) / i`` to every weight: the paper has it at most in a first layer.
        causal: whether token i reads tokens 0 ... i only; otherwise every token reads all.

    Raises:
        ShapeError: if a width is not a multiple of ``heads``, or a head's key width is odd and
            ``rotary`` is set.

    Source: Lu et al. 2025, arXiv:2602.05230.

    Example:
        >>> import dsf, torch
        >>> layer = dsf.layers.ZeroSumAttention(8, heads=2, angle=False).double()
        >>> x = torch.randn(1, 5, 8, dtype=torch.float64)
        >>> sums = dsf.attention_map(layer.mixer(x).system()).sum(dim=-1)
        >>> torch.allclose(sums, torch.zeros_like(sums), atol=1e-12)
        True
    """

    def __init__(
        self,
        model_size: int,
        *,
        key_size: int | None = None,
        heads: int = 1,
        angle: bool = True,
        rotary: bool = True,
        zero_order: bool = False,
        causal: bool = True,
    ) -> None:
        super().__init__()
        key_size = model_size if key_size is None else key_size
        divide("ZeroSumAttention", heads=heads, model_size=model_size, key_size=key_size)
        if angle and rotary and key_size // heads % 2:
            raise ShapeError(
                f"ZeroSumAttention: rotary positions turn pairs, but a head's key width is "
                f"{key_size // heads}. Make it even, or set rotary=False."
            )
        self.heads, self.angle, self.rotary, self.zero_order = heads, angle, rotary, zero_order
        self.causal = causal
        if angle:
            self.query = nn.Linear(model_size, key_size)
            self.key = nn.Linear(model_size, key_size)
        self.value = nn.Linear(model_size, model_size)
        self.logit = nn.Linear(model_size, key_size)
        self.orders = nn.Linear(model_size, 3 * heads)
        self.prior = nn.Parameter(torch.zeros(key_size))
        self.log_weight = nn.Parameter(torch.zeros(heads))
        self.out = nn.Linear(model_size, model_size)

    def mixer(
        self, x: Float[Tensor, "batch time model"], memory: Memory | None = None
    ) -> mixers.ZeroSumAttention:
        count = tokens_so_far(x, memory)
        first, higher, zero = self.orders(x).mT.chunk(3, dim=-2)
        query, key = self._directions(x, count) if self.angle else (None, None)
        return mixers.ZeroSumAttention(
            value=split(self.value(x), self.heads),
            logit=self._logits(x, count, memory),
            first_order=first.sigmoid(),
            higher_order=higher.sigmoid(),
            zero_order=zero.tanh() if self.zero_order else None,
            query=query,
            key=key,
            causal=self.causal,
        )

    def mix_token(self, mixer: mixers.Mixer, memory: Memory) -> Shaped[Tensor, "..."]:
        mixer = cast("mixers.ZeroSumAttention", mixer)
        return advanced(mixer.following(memory), mixer.signal(), memory)

    def _directions(self, x: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        query, key = split(self.query(x), self.heads), split(self.key(x), self.heads)
        if not self.rotary:
            return query, key
        return rotated(query, count - 1), rotated(key, count - 1)

    def _logits(self, x: Tensor, count: Tensor, memory: Memory | None) -> Tensor:
        u = split(self.logit(x), self.heads).to(count)
        total = total_in_reach(u, causal=self.causal)
        if not self.causal:
            count = count[-1:]
        if memory is not None:
            total = total + memory.get("logit_total", torch.zeros_like(total[..., :1, :]))
            memory["logit_total"] = total[..., -1:, :]
        weight = self.log_weight.exp()[:, None, None]
        prior = self.prior.unflatten(0, (self.heads, 1, -1))
        mean = (weight * prior + total) / (weight + count.unsqueeze(-1))
        return -(u * mean).sum(dim=-1) / u.shape[-1] ** 0.5


class ZeroSumSoftmaxAttention(NormedHeads):
    """Softmax attention minus its uniform part, with factors from the query for each order.

    The paper's text gives the weights; the rest is as in ``ZeroSumAttention``: factors of the first
    and higher order from a projection, a LayerNorm without weights for each head. With
    ``d = model_size``, ``n = key_size`` and h heads it has
    ``2 d^2 + 2 d n + 2 d + 2 n + 3 h (d + 1)`` parameters. The n biases of the keys have no effect;
    without ``zero_order`` neither have d (the bias of the values) and h (d + 1) (the last third of
    ``orders``).

    Args:
        model_size: d.
        key_size: n, the width of all queries together; by default d.
        heads: h, heads that share both widths.
        zero_order: add ``tanh(.) / i`` to every weight, so that rows sum to it and not to zero.
        causal: whether token i reads tokens 0 ... i only; otherwise every token reads all.

    Raises:
        ShapeError: if a width is not a multiple of ``heads``.

    Source: Lu et al. 2025, arXiv:2602.05230 (there ZeroS-SM).
    """

    def __init__(
        self,
        model_size: int,
        *,
        key_size: int | None = None,
        heads: int = 1,
        zero_order: bool = False,
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.zero_order, self.causal = zero_order, causal
        self.project = QueryKeyValue("ZeroSumSoftmaxAttention", model_size, key_size, heads=heads)
        self.orders = nn.Linear(model_size, 3 * heads)
        self.out = nn.Linear(model_size, model_size)

    def mixer(
        self, x: Float[Tensor, "batch time model"], memory: Memory | None = None
    ) -> mixers.ZeroSumSoftmaxAttention:
        query, key, value = self.project(x)
        first, higher, zero = self.orders(x).mT.chunk(3, dim=-2)
        return mixers.ZeroSumSoftmaxAttention(
            query=query,
            key=key,
            value=value,
            first_order=first.sigmoid(),
            higher_order=higher.sigmoid(),
            zero_order=zero.tanh() if self.zero_order else None,
            causal=self.causal,
        )

    def mix_token(self, mixer: mixers.Mixer, memory: Memory) -> Shaped[Tensor, "..."]:
        return read_from_cache(mixer, memory)
