"""S6, the core of Mamba, as a layer of its own: no convolution, no gate, no expansion."""

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from dsf import mixers
from dsf.layers import initial
from dsf.layers.layer import Layer, Memory


class SelectiveStateSpace(Layer):
    """Step, write and read vectors follow the input; the tokens themselves are mixed.

    ``d² + 2dr + 3dn + 2d`` parameters, of model size d, n states for every channel and rank
    r = ⌈d / 16⌉ of the step.

    Args:
        model_size: d.
        state_size: n.

    >>> layer = SelectiveStateSpace(32, state_size=8)
    >>> layer(torch.randn(2, 10, 32)).shape
    torch.Size([2, 10, 32])
    """

    def __init__(self, model_size: int, *, state_size: int = 16) -> None:
        super().__init__()
        self.sizes = [math.ceil(model_size / 16), state_size, state_size]
        self.coefficients = nn.Linear(model_size, sum(self.sizes), bias=False)
        self.step_size = nn.Linear(self.sizes[0], model_size)
        self.log_rate = nn.Parameter(torch.empty(model_size, state_size))
        self.feedthrough = nn.Parameter(torch.empty(model_size))
        self.out = nn.Linear(model_size, model_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Steps of 0.001 to 0.1, rates 1 to n, a feedthrough of one."""
        self.coefficients.reset_parameters()
        self.out.reset_parameters()
        rank = self.sizes[0]
        nn.init.uniform_(self.step_size.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():
            self.step_size.bias.copy_(initial.step_bias(*self.feedthrough.shape))
            self.log_rate.copy_(initial.log_rates(*self.log_rate.shape))
            self.feedthrough.fill_(1.0)

    def mixer(
        self,
        x: Float[Tensor, "batch time model"],
        memory: Memory | None = None,
    ) -> mixers.SelectiveStateSpace:
        step, write, read = self.coefficients(x).split(self.sizes, dim=-1)
        return mixers.SelectiveStateSpace(
            value=x,
            step=functional.softplus(self.step_size(step)),
            pole=-self.log_rate.exp(),
            write=write,
            read=read,
            feedthrough=self.feedthrough,
        )

    def finish(
        self,
        x: Float[Tensor, "batch time model"],
        mixed: Shaped[Tensor, "..."],
    ) -> Float[Tensor, "batch time model"]:
        return self.out(mixed[..., 0, 0].mT)
