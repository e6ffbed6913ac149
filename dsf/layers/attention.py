"""Layers of attention: softmax, linear, and divided by a number from the query's token."""

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from dsf import mixers
from dsf.layers.layer import Layer, Memory, QueryKeyValue, read_from_cache
from dsf.mixers.ingredients.feature_maps import FeatureMap, elu_plus_one, exp


class SoftmaxAttention(Layer):
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
        self.project = QueryKeyValue("SoftmaxAttention", model_size, key_size, heads=heads)
        self.out = nn.Linear(model_size, model_size)

    def mixer(
        self, x: Float[Tensor, "batch time model"], memory: Memory | None = None
    ) -> mixers.SoftmaxAttention:
        query, key, value = self.project(x)
        return mixers.SoftmaxAttention(query=query, key=key, value=value, causal=self.causal)

    def mix_token(self, mixer: mixers.Mixer, memory: Memory) -> Shaped[Tensor, "..."]:
        return read_from_cache(mixer, memory)


class LinearAttention(Layer):
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
        self.project = QueryKeyValue("LinearAttention", model_size, key_size, heads=heads)
        self.out = nn.Linear(model_size, model_size)

    def mixer(
        self, x: Float[Tensor, "batch time model"], memory: Memory | None = None
    ) -> mixers.LinearAttention:
        query, key, value = self.project(x)
        return mixers.LinearAttention(
            query=query,
            key=key,
            value=value,
            feature_map=self.feature_map,
            normalised=self.normalised,
            causal=self.causal,
        )

    def mix_token(self, mixer: mixers.Mixer, memory: Memory) -> Shaped[Tensor, "..."]:
        mixer = cast("mixers.LinearAttention", mixer)
        if not self.normalised:
            return super().mix_token(mixer, memory)
        value = torch.cat([mixer.value, torch.ones_like(mixer.value[..., :1])], dim=-1)
        mixed = super().mix_token(replace(mixer, value=value, normalised=False), memory)
        return mixed[..., :-1] / mixed[..., -1:]


class NormalisedAttention(Layer):
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
        self.project = QueryKeyValue("NormalisedAttention", model_size, key_size, heads=heads)
        self.divisor = nn.Linear(model_size, heads)
        self.out = nn.Linear(model_size, model_size)

    def mixer(
        self, x: Float[Tensor, "batch time model"], memory: Memory | None = None
    ) -> mixers.NormalisedAttention:
        query, key, value = self.project(x)
        divisor = self.normaliser(self.divisor(x)).mT
        return mixers.NormalisedAttention(query=query, key=key, value=value, normaliser=divisor)
