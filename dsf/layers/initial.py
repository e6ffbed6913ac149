"""Initial values of decays and step sizes, and the initialisation of published runs."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

SMALL = 0.02


def step_bias(size: int, *, low: float = 1e-3, high: float = 0.1) -> Float[Tensor, " size"]:
    """Biases whose softplus, the step size, is log-uniform between ``low`` and ``high``."""
    step = torch.empty(size).uniform_(math.log(low), math.log(high)).exp()
    return step + (-step).expm1().neg().log()


def log_rates(channels: int, states: int) -> Float[Tensor, "channel state"]:
    """Logarithms of the rates 1 to ``states``, the same in every channel."""
    return torch.arange(1.0, states + 1).log().expand(channels, states).clone()


def gated_rates(size: int) -> Float[Tensor, " size"]:
    """RG-LRU's rates before softplus: decays of 0.999 to 0.9 where the recurrence gate is one."""
    rates = torch.linspace(0.001, 0.1, size).expm1().log()
    slowest, fastest = -9.0, -4.323
    if size == 1:
        return torch.full((1,), slowest)
    return slowest + (rates - rates[0]) / (rates[-1] - rates[0]) * (fastest - slowest)


def draw_weights(linear: nn.Linear, std: float = SMALL) -> None:
    """Weights from N(0, std²); biases zero."""
    nn.init.normal_(linear.weight, std=std)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def as_executed(module: nn.Module, *, depth: int = 2) -> None:
    """Initialise ``module`` in place as the published runs of arXiv:2405.15731 did.

    Every linear map gets N(0, 0.02²) and a bias of zero, the one called ``out``
    N(0, (0.02 / √(2 depth))²), embeddings N(0, 0.02²); everything else keeps what it has. That also
    overwrites the bias of the time step in ``SelectiveStateSpace``, ``StateSpaceDuality`` and
    ``Mamba``, so that the step starts at log 2 = 0.693 instead of 0.001 to 0.1: the fastest
    forgetting.

    Args:
        depth: how many blocks the model has.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            draw_weights(part)
            if name.rpartition(".")[2] == "out":
                nn.init.normal_(part.weight, std=SMALL / math.sqrt(2 * depth))
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=SMALL)
