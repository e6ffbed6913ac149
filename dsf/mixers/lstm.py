r"""The long short-term memory of ``torch.nn.LSTM``.

    c_t = f_t ⊙ c_{t-1} + i_t ⊙ tanh(a_t)        h_t = o_t ⊙ tanh(c_t)

The gates i, f, o and a_t are affine in x_t and h_{t-1}. For fixed gates the cells are linear in the
candidates tanh(a_t), and h_t = (o_t tanh(c_t) / c_t) c_t is linear in the cells.

Source: Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735, with forget gates.
"""

from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.mixers.base import mixer
from dsf.mixers.ingredients.recurrences import Cell, channel_systems, tanh_secant, to_states
from dsf.runtime.shapes import agree
from dsf.systems.system import System
from dsf.systems.transition import Diagonal

WRITE, FORGET, CANDIDATE, READ = 0, 1, 2, 3


class Gates(NamedTuple):
    """Gates, candidate (before tanh) and cell of every token, and the cell and output before it."""

    write: Tensor
    forget: Tensor
    candidate: Tensor
    read: Tensor
    cell: Tensor
    cell_before: Tensor
    output_before: Tensor


@mixer
class LSTM(Cell):
    """One layer and direction, quasi-linear along its own trajectory.

    :meth:`system` and :meth:`signal` are the first form, which mixes the candidates tanh(a_t).
    These still depend on the outputs before. It is a system for every channel, system batch
    ``*batch channel``. With a projection, which mixes channels, it is one system with an input port
    for every channel and an output port for every output.

    Attributes:
        inputs: x, the input of the layer.
        input_weight, recurrent_weight, input_bias, recurrent_bias: write gate, forget gate,
            candidate and read gate, in torch's order (i, f, g, o).
        projection: W_hr, from the channels to the outputs, where the layer has one.
        start, start_cell: h_0 and c_0; zero when absent.
        runs_backward: from the last token to the first.
    """

    input_weight: Float[Tensor, "4 channel input"]
    recurrent_weight: Float[Tensor, "4 channel output"]
    input_bias: Float[Tensor, "4 channel"]
    recurrent_bias: Float[Tensor, "4 channel"]
    projection: Float[Tensor, "output channel"] | None = None
    start: Float[Tensor, "*batch output"] | None = None
    start_cell: Float[Tensor, "*batch channel"] | None = None

    kind = torch.nn.LSTM

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.projection is None:
            _, channels, outputs = self.recurrent_weight.shape
            agree("LSTM (no projection)", "channel", output=outputs, input_weight=channels)

    @cached_property
    def _gates(self) -> Gates:
        inputs = self.inputs.flip(-2) if self.runs_backward else self.inputs
        bias = self.input_bias + self.recurrent_bias
        driven = torch.einsum("gci,...ti->...tgc", self.input_weight, inputs) + bias
        *batch, _, _ = inputs.shape
        _, channels, outputs = self.recurrent_weight.shape
        output, cell, tokens = self.start, self.start_cell, []
        output = inputs.new_zeros(*batch, outputs) if output is None else output
        cell = inputs.new_zeros(*batch, channels) if cell is None else cell
        for fed in driven.unbind(-3):
            recalled = torch.einsum("gco,...o->...gc", self.recurrent_weight, output)
            write, forget, candidate, read = (fed + recalled).unbind(-2)
            write, forget, read = write.sigmoid(), forget.sigmoid(), read.sigmoid()
            after = forget * cell + write * candidate.tanh()
            tokens.append(Gates(write, forget, candidate, read, after, cell, output))
            cell, output = after, read * after.tanh()
            if self.projection is not None:
                output = output @ self.projection.mT
        parts = (torch.stack(part, dim=-2) for part in zip(*tokens, strict=True))
        return Gates(*(part.flip(-2) if self.runs_backward else part for part in parts))

    def system(self) -> System:
        """The first form: exact for this input, and valid for this input only."""
        gates = self._gates
        reading = gates.read * tanh_secant(gates.cell)
        if self.projection is None:
            return channel_systems(
                decay=gates.forget,
                write=gates.write,
                read=reading,
                initial=self.start_cell,
                runs_backward=self.runs_backward,
            )
        return System(
            A=Diagonal(gates.forget),
            B=torch.diag_embed(gates.write),
            C=self.projection * reading.unsqueeze(-2),
            initial=None if self.start_cell is None else self.start_cell.unsqueeze(-1),
            runs_backward=self.runs_backward,
        )

    def signal(self) -> Shaped[Tensor, "*axes"]:
        """The candidates: ``*batch channel time 1 1``, projected ``*batch time channel 1``."""
        candidate = self._gates.candidate.tanh()
        if self.projection is None:
            return candidate.mT[..., None, None]
        return candidate.unsqueeze(-1)

    def second_form(self) -> System:
        """The system with tanh(a_t) / a_t fixed too: from ``[x; 1]`` to h, with state ``[c; h]``.

        Its signal is ``[x_t; 1]`` as one channel, the one for the biases.
        """
        gates = self._gates
        slope = (gates.write * tanh_secant(gates.candidate)).unsqueeze(-1)
        bias = (self.input_bias + self.recurrent_bias)[CANDIDATE]
        affine = torch.cat([self.input_weight[CANDIDATE], bias.unsqueeze(-1)], dim=-1)
        recalled = slope * self.recurrent_weight[CANDIDATE]
        cell = torch.cat([torch.diag_embed(gates.forget), recalled], dim=-1)
        reading = self._projected(gates.read * tanh_secant(gates.cell))
        A = torch.cat([cell, reading @ cell], dim=-2)
        B = torch.cat([slope * affine, reading @ (slope * affine)], dim=-2)
        initial = None
        if self.start is not None or self.start_cell is not None:
            first = -1 if self.runs_backward else 0
            both = (gates.cell_before, gates.output_before)
            initial = torch.cat([part[..., first, :] for part in both], dim=-1)
        return to_states(A, B, self, initial=initial)

    def tangent(self) -> System:
        """The Jacobian along the trajectory: from small changes of the inputs to the outputs.

        Not the same as :meth:`system`: the gates change too, and the state is ``[dc; dh]``. Its
        signal is a change of ``inputs`` (as ``change.unsqueeze(-1)``), and it starts from zero.
        Driven by the inputs themselves it does **not** give the outputs.
        """
        gates = self._gates
        candidate, squashed = gates.candidate.tanh(), gates.cell.tanh()
        to_cell = {
            WRITE: candidate * gates.write * (1 - gates.write),
            FORGET: gates.cell_before * gates.forget * (1 - gates.forget),
            CANDIDATE: gates.write * (1 - candidate.square()),
        }
        to_output = squashed * gates.read * (1 - gates.read)
        reading = self._projected(gates.read * (1 - squashed.square()))
        columns = [
            self._moved(weight, to_cell, to_output, reading)
            for weight in (self.recurrent_weight, self.input_weight)
        ]
        forget = torch.diag_embed(gates.forget)
        first = torch.cat([forget, reading @ forget], dim=-2)
        return to_states(torch.cat([first, columns[0]], dim=-1), columns[1], self)

    def _moved(
        self, weight: Tensor, to_cell: dict[int, Tensor], to_output: Tensor, reading: Tensor
    ) -> Tensor:
        """The change of ``[c; h]`` by what enters all gates through ``weight``."""
        moved = [factor.unsqueeze(-1) * weight[gate] for gate, factor in to_cell.items()]
        cell = torch.stack(moved).sum(dim=0)
        return torch.cat([cell, reading @ cell + self._projected(to_output) @ weight[READ]], dim=-2)

    def _projected(self, factor: Tensor) -> Tensor:
        """``projection diag(factor)``."""
        if self.projection is None:
            return torch.diag_embed(factor)
        return self.projection * factor.unsqueeze(-2)
