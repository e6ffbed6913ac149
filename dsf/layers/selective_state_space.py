"""The layer of the selective scan S6, Mamba's core, without convolution, gate or expansion."""

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from dsf import mixers
from dsf.layers import initial
from dsf.layers.heads import divide
from dsf.layers.layer import Layer, Memory


class Selection(nn.Module):
    """Step, write and read vectors from the values, with a pole and a skip for every channel.

    With d channels, n states each and a step of rank ``r = ceil(d / 16)`` there are
    ``2 d r + 3 d n + 2 d`` parameters.
    """

    def __init__(self, channels: int, states: int) -> None:
        super().__init__()
        self.rank, self.states = math.ceil(channels / 16), states
        self.coefficients = nn.Linear(channels, self.rank + 2 * states, bias=False)
        self.step_size = nn.Linear(self.rank, channels)
        self.log_rate = nn.Parameter(torch.empty(channels, states))
        self.feedthrough = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Step sizes of 0.001 to 0.1, rates 1 to n, a feedthrough of one."""
        self.coefficients.reset_parameters()
        nn.init.uniform_(self.step_size.weight, -(self.rank**-0.5), self.rank**-0.5)
        with torch.no_grad():
            self.step_size.bias.copy_(initial.step_bias(len(self.feedthrough)))
            self.log_rate.copy_(initial.log_rates(*self.log_rate.shape))
            self.feedthrough.fill_(1.0)

    def forward(self, value: Float[Tensor, "batch time channel"]) -> mixers.SelectiveStateSpace:
        """The mixer of these values."""
        sizes = [self.rank, self.states, self.states]
        step, write, read = self.coefficients(value).split(sizes, dim=-1)
        return mixers.SelectiveStateSpace(
            value=value,
            step=functional.softplus(self.step_size(step)),
            pole=-self.log_rate.exp(),
            write=write,
            read=read,
            feedthrough=self.feedthrough,
        )


class SelectiveStateSpace(Layer):
    """The selective scan of the input itself, with step, write and read vectors from the input.

    With ``d = model_size``, ``n = state_size`` and a step of rank ``r = ceil(d / 16)`` it has
    ``d^2 + 2 d r + 3 d n + 2 d`` parameters.

    Args:
        model_size: d.
        state_size: n, the number of states of every channel.

    Raises:
        ShapeError: if a size is below one.

    Source: Gu & Dao 2023, arXiv:2312.00752; this parametrisation: Sieber et al. 2024,
    arXiv:2405.15731.
    """

    def __init__(self, model_size: int, *, state_size: int = 16) -> None:
        super().__init__()
        divide("SelectiveStateSpace", heads=1, model_size=model_size, state_size=state_size)
        self.selection = Selection(model_size, state_size)
        self.out = nn.Linear(model_size, model_size, bias=False)

    def mixer(
        self, x: Float[Tensor, "batch time model"], memory: Memory | None = None
    ) -> mixers.SelectiveStateSpace:
        """The scan over the input itself."""
        return self.selection(x)

    def finish(
        self, x: Float[Tensor, "batch time model"], mixed: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "batch time model"]:
        """The output projection."""
        return self.out(mixed[..., 0, 0].mT)
