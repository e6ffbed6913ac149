"""DeltaNet: erase what a key holds, then write the new value there."""

from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from dsf import mixers
from dsf.layers.heads import divide, merge, split
from dsf.layers.layer import Layer, Memory
from dsf.layers.short_filter import ShortFilter


class DeltaNet(Layer):
    """Queries, keys and values pass a short filter and SiLU; queries and keys have length one.

    The rate is ``σ(x W)``, one for each head, so that no transition expands. The response is
    normalised per head (RMSNorm without weights of its own). ``2dn + 2d² + dh`` parameters, and
    ``width (2n + d)`` for the filter.

    Args:
        model_size: d.
        key_size: n, all heads together; d when absent.
        heads: h, among which keys and values are divided.
        filter_width: taps of the filter; None for no filter.

    >>> layer = DeltaNet(32, heads=2)
    >>> layer(torch.randn(2, 10, 32)).shape
    torch.Size([2, 10, 32])
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
        divide(type(self).__name__, heads=heads, model_size=model_size, key_size=keys)
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
        self,
        x: Float[Tensor, "batch time model"],
        mixed: Shaped[Tensor, "..."],
    ) -> Float[Tensor, "batch time model"]:
        normal = functional.rms_norm(mixed, mixed.shape[-1:], eps=1e-5)
        return self.out(merge(normal))
