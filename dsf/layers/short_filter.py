"""The short causal convolution before many mixers."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsf.layers.layer import Memory


class ShortFilter(nn.Conv1d):
    """A causal convolution of every channel: ``y_t = Σ_k weight[K-1-k] x_{t-k}``.

    Args:
        channels: the number of channels, each with its own taps.
        width: K, the number of taps: the current token and ``width - 1`` before it.
        bias: whether a trained constant is added for every channel.

    Raises:
        ValueError: if ``width`` is below 1.
    """

    def __init__(self, channels: int, width: int, *, bias: bool) -> None:
        if width < 1:
            raise ValueError(
                f"ShortFilter: 'width' must be at least 1, the current token, but it is {width}. "
                f"Pass None to the layer for no convolution."
            )
        super().__init__(channels, channels, width, groups=channels, bias=bias)

    def forward(
        self, x: Float[Tensor, "*batch time channel"], memory: Memory | None = None
    ) -> Float[Tensor, "*batch time channel"]:
        """Convolve ``x``, preceded by the ``tail`` in ``memory``, which becomes that of ``x``."""
        earlier = self.kernel_size[0] - 1
        tail = None if memory is None else memory.get("tail")
        if tail is None:
            tail = x.new_zeros(*x.shape[:-2], earlier, x.shape[-1])
        seen = torch.cat([tail, x], dim=-2)
        if memory is not None:
            memory["tail"] = seen[..., seen.shape[-2] - earlier :, :]
        return super().forward(seen.mT).mT
