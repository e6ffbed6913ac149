"""The layer of softmax attention."""

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from dsf import mixers
from dsf.layers.heads import QueryKeyValue
from dsf.layers.layer import Layer, Memory, read_from_cache


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
        """The mixer, whose scores are divided by the square root of a head's key width."""
        query, key, value = self.project(x)
        return mixers.SoftmaxAttention(query=query, key=key, value=value, causal=self.causal)

    def mix_token(self, mixer: mixers.Mixer, memory: Memory) -> Shaped[Tensor, "..."]:
        """The response to one token; its key and value are appended to the cache."""
        return read_from_cache(mixer, memory)
