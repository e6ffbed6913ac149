"""The DeltaNet layer: replaces the value stored under a key by a new one."""

from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from dsf import mixers
from dsf.layers.heads import divide, merge, split
from dsf.layers.layer import Layer, Memory
from dsf.layers.short_filter import ShortFilter


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

    def mixer(
        self, x: Float[Tensor, "batch time model"], memory: Memory | None = None
    ) -> mixers.DeltaNet:
        """The mixer of the convolved projections; the rate is computed from the input itself."""
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

    def finish(
        self, x: Float[Tensor, "batch time model"], mixed: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "batch time model"]:
        """The norm of every head, then the output projection."""
        normal = functional.rms_norm(mixed, mixed.shape[-1:], eps=1e-5)
        return self.out(merge(normal))
