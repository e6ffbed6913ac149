"""A layer from its input to its output, affine once its run is known."""

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from dsf.evaluate.budget import check_room
from dsf.evaluate.maps import Selection
from dsf.inspection.chain import Tokens

TOGETHER = 64
"""Tokens whose contributions are computed at a time."""


class AffineLayer(ABC):
    """What a layer makes of any input, with the factors of this run: ``linear(x) + remainder``."""

    given: Float[Tensor, "sample time width"]

    @abstractmethod
    def linear(self, x: Tokens) -> Float[Tensor, "*batch written _"]:
        """What ``x`` contributes: the layer without its remainder."""

    @cached_property
    @abstractmethod
    def remainder(self) -> Float[Tensor, "sample written output"]:
        """The output that does not come from the input."""

    @abstractmethod
    def map(self, rows: Selection | None = None) -> Float[Tensor, "sample channel rows columns"]:
        """The map of every channel, or some of its rows."""

    def __call__(self, x: Tokens) -> Float[Tensor, "*batch written _"]:
        """The output that ``x`` would have with the factors of this run."""
        return self.linear(x) + self.remainder

    def contributions(
        self, rows: slice = slice(None)
    ) -> Float[Tensor, "sample written read output"]:
        """What each token of the input adds to each token of the output, the vectors themselves.

        Summed over ``read``, with the remainder, they are the layer's output.
        """
        samples, steps, _ = self.given.shape
        written = len(range(*rows.indices(self.remainder.shape[1])))
        size = (samples, written, steps, self.remainder.shape[-1])
        check_room("contributions", size, self.given.dtype, self.given.device)
        parts = []
        for start in range(0, steps, TOGETHER):
            stop = min(start + TOGETHER, steps)
            alone = self.given.new_zeros(stop - start, *self.given.shape)
            for token in range(start, stop):
                alone[token - start, :, token] = self.given[:, token]
            parts.append(self.linear(alone)[:, :, rows])
        return rearrange(torch.cat(parts), "read sample written w -> sample written read w")

    def shares(self) -> Float[Tensor, "sample written read"]:
        """The part of each output token that comes from each input token, signed.

        The contribution along the output, over the output's squared length: a row sums to one less
        the share of the remainder. A token that points against the output has a negative share. An
        output of zero has none: nan.
        """
        output = self(self.given)
        along = output / output.square().sum(dim=-1, keepdim=True)
        blocks = []
        for start in range(0, output.shape[1], TOGETHER):
            rows = slice(start, start + TOGETHER)
            parts = self.contributions(rows)
            blocks.append(torch.einsum("s w r d, s w d -> s w r", parts, along[:, rows]))
        return torch.cat(blocks, dim=1)
