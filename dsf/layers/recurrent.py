"""Layers of gates and of selective state spaces, on values after a short causal convolution."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import gelu

from dsf import mixers
from dsf.layers.layer import Layer, Memory, Tokens, divide, draw_weights
from dsf.runtime.argument_checks import checked


class ShortFilter(nn.Conv1d):
    """A causal convolution of every channel: ``y_t = Σ_k weight[K-1-k] x_{t-k}``."""

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
            draw_weights(linear, linear.in_features**-0.5)
        self.filter.reset_parameters()

    def finish(self, x: Tokens, mixed: Tensor) -> Tokens:
        return self.out(gelu(self.gate(x)) * mixed[..., 0, 0].mT)


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

    @checked
    def __init__(
        self,
        model_size: int,
        *,
        transition: Literal["sigmoid", "reversed"] = "sigmoid",
        filter_width: int = 4,
    ) -> None:
        super().__init__(model_size, gates=3, filter_width=filter_width)
        self.exponent = nn.Parameter(torch.ones(())) if transition == "reversed" else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights from N(0, 1 / inputs), biases zero, an exponent of one."""
        super().reset_parameters()
        if self.exponent is not None:
            nn.init.ones_(self.exponent)

    def mixer(self, x: Tokens, memory: Memory | None = None) -> mixers.QuasiLSTM:
        value = self.filter(self.value(x), memory)
        forget, write, read = self.gates(value).chunk(3, dim=-1)
        return mixers.QuasiLSTM(
            value=value, forget=self._kept(forget), input=write.sigmoid(), output=read.sigmoid()
        )

    def _kept(self, logit: Tensor) -> Tensor:
        if self.exponent is None:
            return logit.sigmoid()
        return (self.exponent.relu() * functional.logsigmoid(-logit)).exp()


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
        rates = torch.linspace(0.001, 0.1, len(self.rate)).expm1().log()
        slowest, fastest = -9.0, -4.323
        share = (rates - rates[0]) / (rates[-1] - rates[0])
        with torch.no_grad():
            self.rate.copy_(slowest + share * (fastest - slowest))

    def mixer(self, x: Tokens, memory: Memory | None = None) -> mixers.RGLRU:
        value = self.filter(self.value(x), memory)
        decay, write = self.gates(value).sigmoid().chunk(2, dim=-1)
        return mixers.RGLRU(
            value=value,
            decay=(-SHARPNESS * functional.softplus(self.rate) * decay).exp(),
            input_gate=write,
        )


def step_bias(size: int) -> Float[Tensor, " size"]:
    """Biases whose softplus, the step size, is log-uniform between 0.001 and 0.1."""
    step = torch.empty(size).uniform_(math.log(1e-3), math.log(0.1)).exp()
    return step + (-step).expm1().neg().log()


class Selection(nn.Module):
    """Step, write and read vectors from the values, with a pole and a skip for every channel."""

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

    def finish(self, x: Tokens, mixed: Tensor) -> Tokens:
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

    def mixer(self, x: Tokens, memory: Memory | None = None) -> mixers.SelectiveStateSpace:
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

    def mixer(self, x: Tokens, memory: Memory | None = None) -> mixers.SelectiveStateSpace:
        return self.selection(functional.silu(self.filter(self.value(x), memory)))

    def finish(self, x: Tokens, mixed: Tensor) -> Tokens:
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

    def mixer(self, x: Tokens, memory: Memory | None = None) -> mixers.StateSpaceDuality:
        step, write, read = self.coefficients(x).split(self.sizes, dim=-1)
        return mixers.StateSpaceDuality(
            value=x.mT.unsqueeze(-1),
            step=functional.softplus(step + self.step_size.bias).mT,
            pole=-self.log_rate.exp().expand_as(self.feedthrough),
            write=write.unsqueeze(-3),
            read=read.unsqueeze(-3),
            feedthrough=self.feedthrough,
        )
