"""The layer of state-space duality: one decay rate for all states and channels."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from dsf import mixers
from dsf.layers import initial
from dsf.layers.heads import divide
from dsf.layers.layer import Layer, Memory


class StateSpaceDuality(Layer):
    """As ``SelectiveStateSpace``, but all states of a channel have the same decay.

    The input gives one step per token. Every channel adds its own bias to it before softplus and so
    has its own step once the biases are trained.

    With ``d = model_size`` and ``n = state_size`` it has ``d^2 + 2 d n + 4 d + 1`` parameters, of
    which the d in ``step_size.weight`` have no effect: the published layer has them, too, and does
    not use them.

    Args:
        model_size: d.
        state_size: n, states of every channel.

    Attributes:
        idle: the parameters that have no effect.

    Raises:
        ShapeError: if a size is below one.

    Source: Dao & Gu 2024, arXiv:2405.21060; this parametrisation: Sieber et al. 2024,
    arXiv:2405.15731.
    """

    idle = ("step_size.weight",)

    def __init__(self, model_size: int, *, state_size: int = 16) -> None:
        super().__init__()
        divide("StateSpaceDuality", heads=1, model_size=model_size, state_size=state_size)
        self.sizes = [1, state_size, state_size]
        self.coefficients = nn.Linear(model_size, sum(self.sizes), bias=False)
        self.step_size = nn.Linear(1, model_size)
        self.log_rate = nn.Parameter(torch.empty(1))
        self.feedthrough = nn.Parameter(torch.empty(model_size))
        self.out = nn.Linear(model_size, model_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Step sizes of 0.001 to 0.1, a rate and a feedthrough of one."""
        self.coefficients.reset_parameters()
        self.out.reset_parameters()
        nn.init.uniform_(self.step_size.weight, -1.0, 1.0)
        with torch.no_grad():
            self.step_size.bias.copy_(initial.step_bias(*self.feedthrough.shape))
            self.log_rate.fill_(0.0)
            self.feedthrough.fill_(1.0)

    def mixer(
        self, x: Float[Tensor, "batch time model"], memory: Memory | None = None
    ) -> mixers.StateSpaceDuality:
        """The mixer, where every channel is a head and all share write and read vectors."""
        step, write, read = self.coefficients(x).split(self.sizes, dim=-1)
        return mixers.StateSpaceDuality(
            value=x.mT.unsqueeze(-1),
            step=functional.softplus(step + self.step_size.bias).mT,
            pole=-self.log_rate.exp().expand_as(self.feedthrough),
            write=write.unsqueeze(-3),
            read=read.unsqueeze(-3),
            feedthrough=self.feedthrough,
        )

    def finish(
        self, x: Float[Tensor, "batch time model"], mixed: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "batch time model"]:
        """The output projection."""
        return self.out(mixed[..., 0, 0].mT)
