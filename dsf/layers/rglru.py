"""The layer of the real-gated linear recurrent unit (RG-LRU) of Griffin."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dsf import mixers
from dsf.layers import initial
from dsf.layers.layer import Memory
from dsf.layers.short_filter import GatedFilter

SHARPNESS = 8


class RGLRU(GatedFilter):
    """RG-LRU on convolved values, twice as wide as the model, with a GELU output gate.

    The decay is ``exp(-8 softplus(p) σ(x W_r + b_r))``, the input gate ``σ(x W_i + b_i)``, for
    convolved values x. With ``d = model_size`` and a convolution of 4 taps there are
    ``14 d^2 + 16 d`` parameters.

    Nothing is added under the root of ``1 - a^2``; the layers this one follows add 1e-6 there.

    Args:
        model_size: d.
        filter_width: taps of the short convolution.

    Source: De et al. 2024, arXiv:2402.19427; this parametrisation: Sieber et al. 2024,
    arXiv:2405.15731.
    """

    def __init__(self, model_size: int, *, filter_width: int = 4) -> None:
        super().__init__(model_size, gates=2, filter_width=filter_width)
        self.rate = nn.Parameter(torch.empty(2 * model_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights from N(0, 1 / inputs), zero biases, decays of 0.9 to 0.999 for a gate of one."""
        super().reset_parameters()
        with torch.no_grad():
            self.rate.copy_(initial.gated_rates(len(self.rate)))

    def mixer(
        self, x: Float[Tensor, "batch time model"], memory: Memory | None = None
    ) -> mixers.RGLRU:
        """The mixer of the convolved values with decay and input gate."""
        value = self.filter(self.value(x), memory)
        decay, write = self.gates(value).sigmoid().chunk(2, dim=-1)
        return mixers.RGLRU(
            value=value,
            decay=(-SHARPNESS * functional.softplus(self.rate) * decay).exp(),
            input_gate=write,
        )
