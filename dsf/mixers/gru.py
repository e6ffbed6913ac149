r"""The gated recurrent unit of ``torch.nn.GRU``.

    h_t = z_t ⊙ h_{t-1} + (1 - z_t) ⊙ n_t        n_t = tanh(a_t)
    a_t = W_n x_t + b_n + r_t ⊙ (U_n h_{t-1} + b'_n)        r_t, z_t = σ(W x_t + b + U h_{t-1} + b')

torch applies r_t after U_n. For fixed gates the states are linear in the candidates n_t.

Source: Cho et al. 2014, arXiv:1406.1078.
"""

from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.mixers.base import mixer
from dsf.mixers.ingredients.recurrences import Cell, channel_systems, tanh_secant, to_states
from dsf.systems.system import System

RESET, UPDATE, CANDIDATE = 0, 1, 2


class Token(NamedTuple):
    """The values at every token: both gates, a_t, the state before, and U_n h_{t-1} + b'_n."""

    reset: Tensor
    update: Tensor
    activated: Tensor
    before: Tensor
    recalled: Tensor


@mixer
class GRU(Cell):
    """One layer and direction, quasi-linear along its own trajectory.

    :meth:`system` and :meth:`signal` are the first form: a system for every channel, system batch
    ``*batch channel``, that mixes the candidates n_t. These still depend on the states before.

    Attributes:
        inputs: x, the input of the layer.
        input_weight, recurrent_weight, input_bias, recurrent_bias: reset, update and candidate.
        start: the state before the first token; zero when absent.
        runs_backward: from the last token to the first.
    """

    input_weight: Float[Tensor, "3 channel input"]
    recurrent_weight: Float[Tensor, "3 channel channel"]
    input_bias: Float[Tensor, "3 channel"]
    recurrent_bias: Float[Tensor, "3 channel"]
    start: Float[Tensor, "*batch channel"] | None = None

    kind = torch.nn.GRU

    @cached_property
    def _trajectory(self) -> Token:
        driven = torch.einsum("gci,...ti->...tgc", self.input_weight, self.inputs) + self.input_bias
        state = torch.zeros_like(driven[..., 0, 0, :]) if self.start is None else self.start
        tokens = []
        for fed in driven.flip(-3).unbind(-3) if self.runs_backward else driven.unbind(-3):
            recalled = torch.einsum("gck,...k->...gc", self.recurrent_weight, state)
            recalled = recalled + self.recurrent_bias
            reset, update, _ = (fed + recalled).sigmoid().unbind(-2)
            own = recalled[..., CANDIDATE, :]
            activated = fed[..., CANDIDATE, :] + reset * own
            tokens.append(Token(reset, update, activated, state, own))
            state = update * state + (1 - update) * activated.tanh()
        parts = (torch.stack(part, dim=-2) for part in zip(*tokens, strict=True))
        return Token(*(part.flip(-2) if self.runs_backward else part for part in parts))

    def system(self) -> System:
        """The first form: exact for this input, and valid for this input only."""
        update = self._trajectory.update
        return channel_systems(
            decay=update,
            write=1 - update,
            initial=self.start,
            runs_backward=self.runs_backward,
        )

    def signal(self) -> Shaped[Tensor, "*batch channel time 1 1"]:
        """The candidates n_t."""
        return self._trajectory.activated.tanh().mT[..., None, None]

    def second_form(self) -> System:
        """The system with tanh(a_t) / a_t fixed too: from ``[x; 1]`` to the states.

        Its signal is ``[x_t; 1]`` as one channel, the one for the biases.
        """
        at = self._trajectory
        slope = (1 - at.update) * tanh_secant(at.activated)
        _, _, recurrent = self.recurrent_weight.unbind(0)
        bias = self.input_bias[CANDIDATE] + at.reset * self.recurrent_bias[CANDIDATE]
        entering = self.input_weight[CANDIDATE].expand(*slope.shape, -1)
        A = torch.diag_embed(at.update) + (slope * at.reset).unsqueeze(-1) * recurrent
        B = slope.unsqueeze(-1) * torch.cat([entering, bias.unsqueeze(-1)], dim=-1)
        return to_states(A, B, self, initial=self.start)

    def tangent(self) -> System:
        """The Jacobian along the trajectory: from small changes of the inputs to the states.

        Not the same as :meth:`system`: the gates change too. Its signal is a change of ``inputs``
        (as ``change.unsqueeze(-1)``), and it starts from zero. Driven by the inputs themselves it
        does **not** give the states.
        """
        at = self._trajectory
        candidate = at.activated.tanh()
        by_update = (at.before - candidate) * at.update * (1 - at.update)
        by_candidate = (1 - at.update) * (1 - candidate.square())
        by_reset = by_candidate * at.recalled * at.reset * (1 - at.reset)
        A, B = (
            by_reset.unsqueeze(-1) * weight[RESET]
            + by_update.unsqueeze(-1) * weight[UPDATE]
            + (by_candidate * through).unsqueeze(-1) * weight[CANDIDATE]
            for weight, through in ((self.recurrent_weight, at.reset), (self.input_weight, 1.0))
        )
        return to_states(torch.diag_embed(at.update) + A, B, self)
