"""The layer of zero-sum softmax attention, on scores of query and key."""

from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from dsf import mixers
from dsf.layers.heads import QueryKeyValue, merge
from dsf.layers.layer import Layer, Memory, read_from_cache
from dsf.layers.zero_sum_attention import EPSILON


class ZeroSumSoftmaxAttention(Layer):
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
        """The mixer: scores over the square root of a head's key width, and a factor per order."""
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
        """The norm of every head, then the output projection."""
        normed = layer_norm(mixed, mixed.shape[-1:], eps=EPSILON)
        return self.out(merge(normed))

    def mix_token(self, mixer: mixers.Mixer, memory: Memory) -> Shaped[Tensor, "..."]:
        """The response to one token; its key and value are appended to the cache."""
        return read_from_cache(mixer, memory)
