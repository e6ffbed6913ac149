"""A recurrent layer of torch from its input to its output: gates and slopes as in this run.

Here the input enters every step through a matrix and the outputs before come back through
another, so that no channel is on its own.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from dsf.evaluate import respond
from dsf.evaluate.maps import Selection
from dsf.inspection.affine_layer import AffineLayer
from dsf.inspection.chain import Tokens
from dsf.inspection.errors import InspectionError
from dsf.mixers import GRU, LSTM, ElmanRNN
from dsf.system import System


@dataclass(frozen=True, eq=False, repr=False)
class WholeCell(AffineLayer):
    """An LSTM, GRU or Elman layer, affine in its input once its run is known.

    Attributes:
        given: the layer's input in this run.
        system: from ``[x; 1]`` to the outputs.
    """

    given: Float[Tensor, "sample time width"]
    system: System

    @classmethod
    def around(cls, mixer: LSTM | GRU | ElmanRNN) -> "WholeCell":
        """The layer that applied ``mixer``."""
        system = mixer.system() if isinstance(mixer, ElmanRNN) else mixer.second_form()
        return cls(given=mixer.inputs, system=system)

    def linear(self, x: Tokens) -> Float[Tensor, "*batch written _"]:
        """What ``x`` contributes: the layer without its remainder."""
        front, stacked = x.shape[:-3], x.reshape(-1, *x.shape[-3:])
        ports = torch.cat([stacked, torch.zeros_like(stacked[..., :1])], dim=-1)
        signal = rearrange(ports, "front sample time port -> sample time port front")
        response = respond(replace(self.system, initial=None), signal)
        back = rearrange(response, "sample time output front -> front sample time output")
        return back.reshape(*front, *back.shape[1:])

    @cached_property
    def remainder(self) -> Float[Tensor, "sample written output"]:
        """The output that does not come from the input: what biases and the first state leave."""
        nothing = torch.zeros_like(self.given)
        ports = torch.cat([nothing, torch.ones_like(nothing[..., :1])], dim=-1)
        return respond(self.system, ports.unsqueeze(-1)).squeeze(-1)

    def map(
        self,
        rows: Selection | None = None,  # noqa: ARG002
    ) -> Float[Tensor, "sample channel rows columns"]:
        """There is none for single channels.

        Raises:
            InspectionError: always.
        """
        raise InspectionError(
            "mixer_map: in a recurrent layer of torch the channels feed back into each other, so "
            "that none has a map of its own from the layer's input. layer.whole.contributions() "
            "has what every token adds, and layer.map() the map between its gates."
        )
