"""Layers of selective state spaces: the scan S6, Mamba around it, and state-space duality."""

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from dsf import mixers
from dsf.layers.gated_filters import ShortFilter
from dsf.layers.layer import Layer, Memory, divide


def step_bias(size: int) -> Float[Tensor, " size"]:
    """Biases whose softplus, the step size, is log-uniform between 0.001 and 0.1."""
    step = torch.empty(size).uniform_(math.log(1e-3), math.log(0.1)).exp()
    return step + (-step).expm1().neg().log()


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
            self.step_size.bias.copy_(step_bias(len(self.feedthrough)))
            self.log_rate.copy_(torch.arange(1.0, self.states + 1).log())
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


class ChannelLayer(Layer):
    """A layer whose mixer is a system for every channel, with an output projection."""

    def finish(
        self, x: Float[Tensor, "batch time model"], mixed: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "batch time model"]:
        return self.out(mixed[..., 0, 0].mT)


class SelectiveStateSpace(ChannelLayer):
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
        return self.selection(x)


class Mamba(Layer):
    """``SelectiveStateSpace`` on convolved values, with a SiLU output gate.

    With ``d = model_size``, ``n = state_size``, a convolution of K taps and a step of rank
    ``r = ceil(d / 16)`` it has ``3 d^2 + 2 d r + 3 d n + (K + 3) d`` parameters. Its values are as
    wide as the model; published Mamba models make them twice as wide.

    Args:
        model_size: d.
        state_size: n, states of every channel.
        filter_width: K, the taps of the short convolution.

    Raises:
        ShapeError: if a size is below one.

    Source: Gu & Dao 2023, arXiv:2312.00752.
    """

    def __init__(self, model_size: int, *, state_size: int = 16, filter_width: int = 4) -> None:
        super().__init__()
        divide("Mamba", heads=1, model_size=model_size, state_size=state_size)
        self.value = nn.Linear(model_size, model_size, bias=False)
        self.gate = nn.Linear(model_size, model_size, bias=False)
        self.filter = ShortFilter(model_size, filter_width, bias=True)
        self.selection = Selection(model_size, state_size)
        self.out = nn.Linear(model_size, model_size, bias=False)

    def mixer(
        self, x: Float[Tensor, "batch time model"], memory: Memory | None = None
    ) -> mixers.SelectiveStateSpace:
        return self.selection(functional.silu(self.filter(self.value(x), memory)))

    def finish(
        self, x: Float[Tensor, "batch time model"], mixed: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "batch time model"]:
        return self.out(mixed[..., 0, 0].mT * functional.silu(self.gate(x)))


class StateSpaceDuality(ChannelLayer):
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
            self.step_size.bias.copy_(step_bias(*self.feedthrough.shape))
            self.log_rate.fill_(0.0)
            self.feedthrough.fill_(1.0)

    def mixer(
        self, x: Float[Tensor, "batch time model"], memory: Memory | None = None
    ) -> mixers.StateSpaceDuality:
        step, write, read = self.coefficients(x).split(self.sizes, dim=-1)
        return mixers.StateSpaceDuality(
            value=x.mT.unsqueeze(-1),
            step=functional.softplus(step + self.step_size.bias).mT,
            pole=-self.log_rate.exp().expand_as(self.feedthrough),
            write=write.unsqueeze(-3),
            read=read.unsqueeze(-3),
            feedthrough=self.feedthrough,
        )
