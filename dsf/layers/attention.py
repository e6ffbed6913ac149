"""Layers of attention: softmax, linear, normalised, zero-sum and InLine."""

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu, layer_norm, unfold

from dsf import mixers
from dsf.layers import layer
from dsf.mixers.ingredients.feature_maps import FeatureMap, elu_plus_one, exp, identity
from dsf.mixers.ingredients.matrix_memories import total_in_reach
from dsf.runtime.shapes import ShapeError, agree


class SoftmaxAttention(layer.Layer):
    """Scaled dot-product attention between linear projections.

    With ``d = model_size`` and ``n = key_size`` it has ``2 d^2 + 2 d n + 2 d + 2 n`` parameters, of
    which the n biases of the keys have no effect: they add the same to every score of a row.

    Args:
        model_size: d.
        key_size: n, the width of all queries together; by default d.
        heads: the number of heads, which share both widths.
        causal: whether token i reads tokens 0 ... i only; otherwise every token reads all.

    Raises:
        ShapeError: if a width is not a multiple of ``heads``.

    Source: Vaswani et al. 2017, arXiv:1706.03762; this parametrisation: Sieber et al. 2024,
    arXiv:2405.15731.

    Example:
        >>> import dsf, torch
        >>> layer = dsf.layers.SoftmaxAttention(8, key_size=4, heads=2)
        >>> x = torch.randn(1, 5, 8)
        >>> layer(x).shape
        torch.Size([1, 5, 8])
        >>> dsf.attention_map(layer.mixer(x).system()).shape  # one map for each head
        torch.Size([1, 2, 5, 5])
    """

    def __init__(
        self, model_size: int, *, key_size: int | None = None, heads: int = 1, causal: bool = True
    ) -> None:
        super().__init__()
        self.causal = causal
        self.project = layer.QueryKeyValue("SoftmaxAttention", model_size, key_size, heads=heads)
        self.out = nn.Linear(model_size, model_size)

    def mixer(self, x: layer.Tokens, memory: layer.Memory | None = None) -> mixers.SoftmaxAttention:
        query, key, value = self.project(x)
        return mixers.SoftmaxAttention(query=query, key=key, value=value, causal=self.causal)

    def mix_token(self, mixer: mixers.Mixer, memory: layer.Memory) -> Tensor:
        return layer.read_from_cache(mixer, memory)


class LinearAttention(layer.Layer):
    """Linear attention between linear projections, with rows divided by their sum.

    With ``d = model_size`` and ``n = key_size`` it has ``2 d^2 + 2 d n + 2 d + 2 n`` parameters.

    Args:
        model_size: d.
        key_size: n, the width of all queries together; by default d.
        heads: the number of heads, which share both widths.
        feature_map: applied to queries and keys, without a scale.
        normalised: divide every row by its sum, to which nothing is added.
        causal: whether token i reads tokens 0 ... i only; otherwise every token reads all.

    Raises:
        ShapeError: if a width is not a multiple of ``heads``.

    Source: Katharopoulos et al. 2020, arXiv:2006.16236; this parametrisation: Sieber et al. 2024,
    arXiv:2405.15731.

    Example:
        >>> import dsf, torch
        >>> layer = dsf.layers.LinearAttention(8, key_size=4)
        >>> out, memory = layer.step(torch.randn(1, 8))  # decoding keeps a state of fixed size
        >>> memory["state"].shape  # batch, head, key, channels and one for the row sum
        torch.Size([1, 1, 4, 9])
    """

    def __init__(
        self,
        model_size: int,
        *,
        key_size: int | None = None,
        heads: int = 1,
        feature_map: FeatureMap = elu_plus_one,
        normalised: bool = True,
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.feature_map, self.normalised, self.causal = feature_map, normalised, causal
        self.project = layer.QueryKeyValue("LinearAttention", model_size, key_size, heads=heads)
        self.out = nn.Linear(model_size, model_size)

    def mixer(self, x: layer.Tokens, memory: layer.Memory | None = None) -> mixers.LinearAttention:
        query, key, value = self.project(x)
        return mixers.LinearAttention(
            query=query,
            key=key,
            value=value,
            feature_map=self.feature_map,
            normalised=self.normalised,
            causal=self.causal,
        )

    def mix_token(self, mixer: mixers.Mixer, memory: layer.Memory) -> Tensor:
        mixer = cast("mixers.LinearAttention", mixer)
        if not self.normalised:
            return super().mix_token(mixer, memory)
        value = torch.cat([mixer.value, torch.ones_like(mixer.value[..., :1])], dim=-1)
        mixed = super().mix_token(replace(mixer, value=value, normalised=False), memory)
        return mixed[..., :-1] / mixed[..., -1:]


class NormalisedAttention(layer.Layer):
    """Linear attention whose rows are divided by a number computed from the query's token.

    With ``d = model_size``, ``n = key_size`` and h heads it has
    ``2 d^2 + 2 d n + 2 d + 2 n + h (d + 1)`` parameters.

    Args:
        model_size: d.
        key_size: n, the width of all queries together; by default d.
        heads: h, the number of heads, which share both widths.
        normaliser: the function from a linear projection, one for every head, to the divisor,
            which must be positive. The paper has ``dsf.mixers.ingredients.exp``,
            ``dsf.mixers.ingredients.softplus`` and ``torch.sigmoid``.

    Raises:
        ShapeError: if a width is not a multiple of ``heads``.

    Source: Sieber et al. 2024, arXiv:2405.15731.
    """

    def __init__(
        self,
        model_size: int,
        *,
        key_size: int | None = None,
        heads: int = 1,
        normaliser: Callable[[Tensor], Tensor] = exp,
    ) -> None:
        super().__init__()
        self.normaliser = normaliser
        self.project = layer.QueryKeyValue("NormalisedAttention", model_size, key_size, heads=heads)
        self.divisor = nn.Linear(model_size, heads)
        self.out = nn.Linear(model_size, model_size)

    def mixer(
        self, x: layer.Tokens, memory: layer.Memory | None = None
    ) -> mixers.NormalisedAttention:
        query, key, value = self.project(x)
        divisor = self.normaliser(self.divisor(x)).mT
        return mixers.NormalisedAttention(query=query, key=key, value=value, normaliser=divisor)


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


class NormedHeads(layer.Layer):
    """A layer that normalises every head (LayerNorm without weights) before its projection."""

    def finish(self, x: layer.Tokens, mixed: Tensor) -> layer.Tokens:
        normed = layer_norm(mixed, mixed.shape[-1:])
        return self.out(layer.merge(normed))


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
        layer.divide("ZeroSumAttention", heads=heads, model_size=model_size, key_size=key_size)
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

    def mixer(self, x: layer.Tokens, memory: layer.Memory | None = None) -> mixers.ZeroSumAttention:
        count = layer.tokens_so_far(x, memory)
        first, higher, zero = self.orders(x).mT.chunk(3, dim=-2)
        query, key = self._directions(x, count) if self.angle else (None, None)
        return mixers.ZeroSumAttention(
            value=layer.split(self.value(x), self.heads),
            logit=self._logits(x, count, memory),
            first_order=first.sigmoid(),
            higher_order=higher.sigmoid(),
            zero_order=zero.tanh() if self.zero_order else None,
            query=query,
            key=key,
            causal=self.causal,
        )

    def mix_token(self, mixer: mixers.Mixer, memory: layer.Memory) -> Tensor:
        mixer = cast("mixers.ZeroSumAttention", mixer)
        return layer.advanced(mixer.following(memory), mixer.signal(), memory)

    def _directions(self, x: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        query, key = layer.split(self.query(x), self.heads), layer.split(self.key(x), self.heads)
        if not self.rotary:
            return query, key
        return rotated(query, count - 1), rotated(key, count - 1)

    def _logits(self, x: Tensor, count: Tensor, memory: layer.Memory | None) -> Tensor:
        u = layer.split(self.logit(x), self.heads).to(count)
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
        self.project = layer.QueryKeyValue(
            "ZeroSumSoftmaxAttention", model_size, key_size, heads=heads
        )
        self.orders = nn.Linear(model_size, 3 * heads)
        self.out = nn.Linear(model_size, model_size)

    def mixer(
        self, x: layer.Tokens, memory: layer.Memory | None = None
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

    def mix_token(self, mixer: mixers.Mixer, memory: layer.Memory) -> Tensor:
        return layer.read_from_cache(mixer, memory)


TAPS = 9


class LocalResidual(nn.Module):
    """The term that InLine attention adds to the mixed values, before the output projection.

    Every sequence and channel has its own filter, computed from the mean of all tokens; the grid is
    padded with zeros. ``10 C^2 / heads + 10 C`` parameters for C channels.

    Args:
        model_size: C.
        heads: the number of heads; the two maps that compute the filters are separate in each.
        grid: rows and columns of tokens, row by row in the sequence.
        class_token: whether the sequence begins with a token outside the grid, which gets no term.

    Raises:
        ShapeError: if ``model_size`` is not a multiple of ``heads``, or a grid side is below 1.

    Source: Han et al. 2024, arXiv:2412.06590.

    Example:
        If all values are one, the middle of the grid gets the sum of the filter:

        >>> import torch
        >>> residual = LocalResidual(2, heads=1, grid=(3, 3)).double()
        >>> x = torch.randn(1, 9, 2, dtype=torch.float64)
        >>> added = residual(x, torch.ones_like(x))
        >>> torch.allclose(added[:, 4], residual.filters(x).sum(dim=(-2, -1)))
        True
    """

    def __init__(
        self, model_size: int, *, heads: int, grid: tuple[int, int], class_token: bool = False
    ) -> None:
        super().__init__()
        layer.divide("LocalResidual", heads=heads, model_size=model_size)
        layer.divide("LocalResidual", heads=1, rows=grid[0], columns=grid[1])
        self.grid, self.outside = grid, int(class_token)
        self.inner = nn.Conv1d(model_size, model_size, 1, groups=heads)
        self.outer = nn.Conv1d(model_size, TAPS * model_size, 1, groups=heads)

    def filters(self, x: layer.Tokens) -> Float[Tensor, "batch model rows columns"]:
        """A 3 x 3 filter for every sequence and channel; entry (1, 1) is the token's own weight."""
        mean = x.mean(dim=-2).unsqueeze(-1)
        return self.outer(gelu(self.inner(mean))).unflatten(-2, (-1, 3, 3)).squeeze(-1)

    def forward(self, x: layer.Tokens, value: layer.Tokens) -> layer.Tokens:
        """The term for every token, from the layer's input and its values.

        Raises:
            ShapeError: if the sequence is not the grid, after the class token if there is one.
        """
        self._fits(value)
        inside = value[..., self.outside :, :].mT.unflatten(-1, self.grid)
        batch, channels = inside.shape[:2]
        filters = self.filters(x).flatten(0, 1).unsqueeze(1)
        images = inside.flatten(0, 1).unsqueeze(0)
        added = conv2d(images, filters, padding=1, groups=batch * channels)
        added = added.unflatten(1, (batch, channels)).squeeze(0).flatten(-2).mT
        return torch.cat([torch.zeros_like(value[..., : self.outside, :]), added], dim=-2)

    def local_map(self, x: layer.Tokens) -> Float[Tensor, "batch model time time"]:
        """The filters as a map for every channel: rows are queries, columns are keys.

        It is to be added to the map of the mixer. Away from the edge, rows sum to the sum of the
        filter; at the edge to a part of it, and at the class token to zero.

        Raises:
            ShapeError: if the sequence is not the grid, after the class token if there is one.
        """
        self._fits(x)
        tokens = x.shape[-2] - self.outside
        units = torch.eye(tokens, dtype=x.dtype, device=x.device).unflatten(-1, (1, *self.grid))
        seen = unfold(units, 3, padding=1)  # key, tap, query
        weights = torch.einsum("bck,jki->bcij", self.filters(x).flatten(-2), seen)
        return nn.functional.pad(weights, (self.outside, 0, self.outside, 0))

    def _fits(self, x: Tensor) -> None:
        rows, columns = self.grid
        agree("LocalResidual", "time", grid=rows * columns + self.outside, x=x.shape[-2])


class InLineAttention(layer.Layer):
    """Linear attention minus the mean score plus a uniform weight, injective in the query.

    Scores are ``φ(q_i).φ(k_j) / (n_i sqrt(width))`` with the number n_i of unmasked tokens and the
    key width of a head; with identity features, rows are the first-order expansion of softmax. With
    ``C = model_size = key_size`` it has ``4 C^2 + 4 C`` parameters, and those of the residual; with
    identity features the C biases of the keys have no effect.

    Args:
        model_size: C.
        key_size: the width of all queries together; by default C.
        heads: the number of heads, which share both widths.
        feature_map: φ, applied to queries and keys.
        scaled: divide the scores by ``n_i sqrt(width)``, as the published models do and the formula
            of the paper does not.
        causal: whether token i reads tokens 0 ... i only; otherwise, as published, every token
            reads all.
        residual: a term added to the mixed values before the output projection, which reads later
            tokens.

    Raises:
        ShapeError: if a width is not a multiple of ``heads``.
        ValueError: if a causal layer is given a residual.

    Source: Han et al. 2024, arXiv:2412.06590.

    Example:
        The rows of its map sum to one:

        >>> import dsf, torch
        >>> layer = dsf.layers.InLineAttention(8, heads=2).double()
        >>> x = torch.randn(1, 5, 8, dtype=torch.float64)
        >>> sums = dsf.attention_map(layer.mixer(x).system()).sum(dim=-1)
        >>> torch.allclose(sums, torch.ones_like(sums))
        True
    """

    def __init__(
        self,
        model_size: int,
        *,
        key_size: int | None = None,
        heads: int = 1,
        feature_map: FeatureMap = identity,
        scaled: bool = True,
        causal: bool = True,
        residual: LocalResidual | None = None,
    ) -> None:
        super().__init__()
        if causal and residual is not None:
            raise ValueError(
                "InLineAttention: the local residual reads later tokens, so a causal layer cannot "
                "have one. Set causal=False or leave out residual."
            )
        self.feature_map, self.scaled, self.causal = feature_map, scaled, causal
        self.project = layer.QueryKeyValue("InLineAttention", model_size, key_size, heads=heads)
        self.residual = residual
        self.out = nn.Linear(model_size, model_size)

    def mixer(self, x: layer.Tokens, memory: layer.Memory | None = None) -> mixers.InLineAttention:
        query, key, value = self.project(x)
        read = self.feature_map(query)
        if self.scaled:
            count = layer.tokens_so_far(x, memory)
            reach = count if self.causal else count[-1:]
            read = read / (query.shape[-1] ** 0.5 * reach.unsqueeze(-1))
        return mixers.InLineAttention(
            query=read,
            key=self.feature_map(key),
            value=value,
            feature_map=identity,
            causal=self.causal,
        )

    def finish(self, x: layer.Tokens, mixed: Tensor) -> layer.Tokens:
        merged = layer.merge(mixed)
        if self.residual is not None:
            merged = merged + self.residual(x, self.project.value(x))
        return self.out(merged)

    def mix_token(self, mixer: mixers.Mixer, memory: layer.Memory) -> Tensor:
        mixer = cast("mixers.InLineAttention", mixer)
        value = torch.cat([mixer.value, torch.ones_like(mixer.value[..., :1])], dim=-1)
        super().mix_token(replace(mixer, value=value), memory)
        sums, total = memory["state"].split([mixer.key.shape[-1], 1], dim=-2)
        scores = mixer.query.to(sums) @ sums
        mean = total[..., :-1] / total[..., -1:]
        return (scores[..., :-1] + (1 - scores[..., -1:]) * mean).unsqueeze(-2)
