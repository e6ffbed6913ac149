"""The quasi-LSTM layer: an LSTM whose gates depend on the input only, not on the state."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dsf import mixers
from dsf.layers.layer import Memory
from dsf.layers.short_filter import GatedFilter


class QuasiLSTM(GatedFilter):
    """Convolved values with three gates, twice as wide as the model, and a GELU output gate.

    With ``d = model_size`` and a convolution of 4 taps it has ``18 d^2 + 16 d`` parameters, and one
    more for the exponent of the reversed transition.

    Args:
        model_size: d.
        transition: the decay of the state, with the logit f of the forget gate. ``"sigmoid"``:
            σ(f). ``"reversed"``: σ(-f)^relu(α) with a trained α, initially 1; the decay of S6 in
            the form exp(-α softplus(f)).
        filter_width: taps of the short convolution.

    Raises:
        ValueError: if ``transition`` is neither ``"sigmoid"`` nor ``"reversed"``.

    Source: Sieber et al. 2024, arXiv:2405.15731.
    """

    def __init__(
        self,
        model_size: int,
        *,
        transition: Literal["sigmoid", "reversed"] = "sigmoid",
        filter_width: int = 4,
    ) -> None:
        if transition not in ("sigmoid", "reversed"):
            raise ValueError(
                f"QuasiLSTM: 'transition' must be 'sigmoid' or 'reversed', but it is "
                f"{transition!r}."
            )
        super().__init__(model_size, gates=3, filter_width=filter_width)
        self.exponent = nn.Parameter(torch.ones(())) if transition == "reversed" else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights from N(0, 1 / inputs), biases zero, an exponent of one."""
        super().reset_parameters()
        if self.exponent is not None:
            nn.init.ones_(self.exponent)

    def mixer(
        self, x: Float[Tensor, "batch time model"], memory: Memory | None = None
    ) -> mixers.QuasiLSTM:
        """The mixer of the convolved values and their gates."""
        value = self.filter(self.value(x), memory)
        forget, write, read = self.gates(value).chunk(3, dim=-1)
        return mixers.QuasiLSTM(
            value=value, forget=self._kept(forget), input=write.sigmoid(), output=read.sigmoid()
        )

    def _kept(self, logit: Tensor) -> Tensor:
        if self.exponent is None:
            return logit.sigmoid()
        return (self.exponent.relu() * functional.logsigmoid(-logit)).exp()
