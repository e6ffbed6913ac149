"""The short causal convolution before many mixers, and layers of gates on what it returns."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.functional import gelu

from dsf.layers import initial
from dsf.layers.heads import divide
from dsf.layers.layer import Layer, Memory


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


class GatedFilter(Layer):
    """Convolved values, twice as wide as the model, with gates, and a GELU output gate.

    Subclasses add their parameters, then call ``reset_parameters``.
    """

    def __init__(self, model_size: int, *, gates: int, filter_width: int) -> None:
        super().__init__()
        divide(type(self).__name__, heads=1, model_size=model_size)
        width = 2 * model_size
        self.gate = nn.Linear(model_size, width, bias=False)
        self.value = nn.Linear(model_size, width, bias=False)
        self.filter = ShortFilter(width, filter_width, bias=True)
        self.gates = nn.Linear(width, gates * width)
        self.out = nn.Linear(width, model_size, bias=False)

    def reset_parameters(self) -> None:
        """Weights from N(0, 1 / inputs), biases zero."""
        for linear in (self.gate, self.value, self.gates, self.out):
            initial.draw_weights(linear, linear.in_features**-0.5)
        self.filter.reset_parameters()

    def finish(
        self, x: Float[Tensor, "batch time model"], mixed: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "batch time model"]:
        """The GELU output gate, then the output projection."""
        return self.out(gelu(self.gate(x)) * mixed[..., 0, 0].mT)
