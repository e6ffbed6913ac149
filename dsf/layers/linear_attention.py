"""The layer of linear attention."""

from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from dsf import mixers
from dsf.layers.heads import QueryKeyValue
from dsf.layers.layer import Layer, Memory
from dsf.mixers.ingredients.feature_maps import FeatureMap, elu_plus_one


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
        """The mixer of the projections, whose features have no scale."""
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
        """The response to one token; a further value of one gives the sum of the row."""
        mixer = cast("mixers.LinearAttention", mixer)
        if not self.normalised:
            return super().mix_token(mixer, memory)
        value = torch.cat([mixer.value, torch.ones_like(mixer.value[..., :1])], dim=-1)
        mixed = super().mix_token(replace(mixer, value=value, normalised=False), memory)
        return mixed[..., :-1] / mixed[..., -1:]
