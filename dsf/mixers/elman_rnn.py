r"""The Elman network, the recurrent layer of ``torch.nn.RNN``.

    h_t = φ(a_t)        a_t = W x_t + b + U h_{t-1} + b'        φ = tanh or relu

For fixed s_t = φ(a_t) / a_t it is linear and has the same states:

    h_t = diag(s_t) U h_{t-1} + diag(s_t) [W, b + b'] [x_t; 1]

Source: Elman 1990, doi:10.1207/s15516709cog1402_1.
"""

from functools import cached_property

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.mixers.base import mixer
from dsf.mixers.ingredients import recurrences
from dsf.systems.system import System


@mixer
class ElmanRNN(recurrences.Cell):
    """One layer and direction, quasi-linear along its own trajectory.

    Attributes:
        inputs: x, the input of the layer; the last input port of the system is a constant one.
        start: the state before the first token; zero when absent.
        activation: φ.
        runs_backward: from the last token to the first.
    """

    input_weight: Float[Tensor, "channel input"]
    recurrent_weight: Float[Tensor, "channel channel"]
    input_bias: Float[Tensor, " channel"]
    recurrent_bias: Float[Tensor, " channel"]
    start: Float[Tensor, "*batch channel"] | None = None
    activation: recurrences.Activation = recurrences.TANH

    kind = torch.nn.RNN

    @cached_property
    def _activated(self) -> Tensor:
        """a_t of every token."""
        bias = self.input_bias + self.recurrent_bias
        driven = self.inputs @ self.input_weight.mT + bias
        state = torch.zeros_like(driven[..., 0, :]) if self.start is None else self.start
        found = []
        for fed in self._in_running_order(driven).unbind(-2):
            found.append(fed + state @ self.recurrent_weight.mT)
            state = self.activation.value(found[-1])
        return self._in_running_order(torch.stack(found, dim=-2))

    def _in_running_order(self, part: Tensor) -> Tensor:
        return part.flip(-2) if self.runs_backward else part

    def system(self) -> System:
        """The layer with s_t fixed: exact for this input, and valid for this input only."""
        bias = (self.input_bias + self.recurrent_bias).unsqueeze(-1)
        entering = torch.cat([self.input_weight, bias], dim=-1)
        return self._linear(self.activation.secant(self._activated), entering, self.start)

    def tangent(self) -> System:
        """The Jacobian along the trajectory: from small changes of the inputs to the states.

        Not the same as :meth:`system`: its signal is a change of ``inputs`` (as
        ``change.unsqueeze(-1)``), it has no constant port, and it starts from zero. Driven by the
        inputs themselves it does **not** give the states.
        """
        return self._linear(self.activation.slope(self._activated), self.input_weight, None)

    def _linear(self, factor: Tensor, entering: Tensor, initial: Tensor | None) -> System:
        rows = factor.unsqueeze(-1)
        return recurrences.to_states(
            rows * self.recurrent_weight, rows * entering, self, initial=initial
        )

    def signal(self) -> Shaped[Tensor, "*batch time ports 1"]:
        """``[x_t; 1]``."""
        return recurrences.with_one(self.inputs)
