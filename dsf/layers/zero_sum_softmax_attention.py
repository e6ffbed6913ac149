"""A layer of zero-sum attention on scores of pairs."""

from dataclasses import replace
from typing import cast

from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from dsf import mixers
from dsf.evaluate import respond
from dsf.layers.heads import QueryKeyValue, divide, merge
from dsf.layers.layer import Layer, Memory, cached
from dsf.layers.zero_sum_attention import EPSILON


class ZeroSumSoftmaxAttention(Layer):
    """Softmax attention without its equal share, first and higher order weighed by the reader.

    The paper's text gives the weights; what surrounds them here is that of ``ZeroSumAttention``:
    factors from a projection, a LayerNorm for each head without weights of its own. With
    ``d = model_size``, ``n = key_size`` and h heads it has
    ``2 d^2 + 2 d n + 2 d + 2 n + 3 h (d + 1)`` parameters. The n biases of the keys are idle;
    without ``zero_order`` so are d (the bias of the values) and h (d + 1) (the last third of
    ``orders``).

    Args:
        model_size: d.
        key_size: n, the width of all queries together; d when absent.
        heads: h, heads that share both widths.
        zero_order: add ``tanh(.) / i`` to every weight, so that rows sum to it and not to zero.
        causal: token i reads tokens 0 ... i; otherwise every token reads all.

    Raises:
        ShapeError: if a width is no multiple of ``heads``.

    Source: Lu et al. 2025, arXiv:2602.05230 (there ZeroS-SM).

    Example:
        >>> import dsf, torch
        >>> layer = dsf.layers.ZeroSumSoftmaxAttention(8, heads=2)
        >>> layer(torch.randn(1, 5, 8)).shape
        torch.Size([1, 5, 8])
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
        key_size = model_size if key_size is None else key_size
        divide("ZeroSumSoftmaxAttention", heads=heads, model_size=model_size, key_size=key_size)
        self.zero_order, self.causal = zero_order, causal
        self.project = QueryKeyValue(model_size, key_size, heads=heads)
        self.orders = nn.Linear(model_size, 3 * heads)
        self.out = nn.Linear(model_size, model_size)

    def mixer(
        self, x: Float[Tensor, "batch time model"], memory: Memory | None = None
    ) -> mixers.ZeroSumSoftmaxAttention:
        """Scores over the square root of a head's key width, and the orders of every token."""
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

    def finish(
        self, x: Float[Tensor, "batch time model"], mixed: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "batch time model"]:
        """Normalise every head, merge them and project."""
        normed = layer_norm(mixed, mixed.shape[-1:], eps=EPSILON)
        return self.out(merge(normed))

    def mix_token(self, mixer: mixers.Mixer, memory: Memory) -> Shaped[Tensor, "..."]:
        """Read the cache of keys and values, which grows by one."""
        mixer = cast("mixers.ZeroSumSoftmaxAttention", mixer)
        cached(memory, key=mixer.key, value=mixer.value)
        cache = replace(mixer, key=memory["key"], value=memory["value"], causal=False)
        return respond(cache.system(), cache.signal())
