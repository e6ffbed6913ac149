"""``Stack``: the blocks of a model as one affine network, and what each token contributes."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from dsf.evaluate.memory_plan import check_room
from dsf.inspection.rebuild import relative_error
from dsf.inspection.results.layers import Inspection
from dsf.inspection.whole.affine_layer import TOGETHER
from dsf.network.affine_steps import Step, contributed, left_over


@dataclass(frozen=True, eq=False, repr=False)
class Stack:
    """The blocks of a model on one input, affine from one residual stream to another.

    Stream ``k`` is the input of block ``k``, and the last stream the output of the last block.
    Tokens are in the order of the model's input.

    Attributes:
        inspection: the layers, each with its own map and error.
        blocks: the paths of the blocks.
        hidden: the streams of the run, one more than blocks. A model with several parallel streams
            (hyper-connections) has a further axis for them.
        closed: paths of the modules that are frozen as one matrix for every token, that of smallest
            norm.
        states: for every stream, the step whose result it is.
    """

    inspection: Inspection
    blocks: tuple[str, ...]
    hidden: tuple[Float[Tensor, "sample time *width"], ...]
    closed: tuple[str, ...]
    states: tuple[Step, ...]

    def contributions(
        self, start: int = 0, stop: int | None = None
    ) -> Float[Tensor, "sample written read *width"]:
        """The vector that each token of stream ``start`` adds to each token of stream ``stop``.

        Their sum over ``read``, plus the remainder, is ``hidden[stop]``. They count all paths:
        through mixers, through feed-forward layers, and along the residual connections.

        Raises:
            IndexError: if there are no such streams.
            MapTooLarge: if it would take more than half of the free memory.
        """
        start, stop = self._between(start, stop)
        stream, read = self.hidden[stop], self.hidden[start].shape[1]
        samples, steps, *width = stream.shape
        check_room("contributions", (samples, steps, read, *width), stream.dtype, stream.device)
        parts = torch.cat(list(self._parts(start, stop)))
        return rearrange(parts, "read sample written ... -> sample written read ...")

    def remainder(
        self, start: int = 0, stop: int | None = None
    ) -> Float[Tensor, "sample time *width"]:
        """The part of stream ``stop`` that does not come from stream ``start``, such as biases."""
        start, stop = self._between(start, stop)
        return left_over(self.states[start], self.states[stop], self.states[0], self.hidden[0])

    def rollout(
        self, start: int = 0, stop: int | None = None
    ) -> Float[Tensor, "sample written read"]:
        """The signed share of each token of stream ``stop`` that comes from each of ``start``.

        It is exact: the inner product of the contribution with the stream, over the stream's
        squared length. A row sums to one minus the share of the remainder. A contribution that
        points against the stream has a negative share, and single shares may exceed one.
        """
        start, stop = self._between(start, stop)
        stream = self.hidden[stop].flatten(2)
        along = stream / stream.square().sum(dim=-1, keepdim=True)
        shares = [
            torch.einsum("rswd,swd->swr", parts.flatten(3), along)
            for parts in self._parts(start, stop)
        ]
        return torch.cat(shares, dim=-1)

    def chained_rollout(
        self, start: int = 0, stop: int | None = None
    ) -> Float[Tensor, "sample written read"]:
        """The product of the single blocks' rollouts: an approximation of :meth:`rollout`.

        Between blocks it keeps one number of every contribution and not its direction, as attention
        rollout does. Once the single blocks are known, any pair of streams costs matrix products.
        """
        start, stop = self._between(start, stop)
        return reduce(lambda earlier, later: later @ earlier, self._single_blocks[start:stop])

    @cached_property
    def error(self) -> float:
        """The largest relative error of a stream that is rebuilt from the stream before it."""
        errors = []
        for (first, last), (given, stream) in zip(
            pairwise(self.states), pairwise(self.hidden), strict=True
        ):
            linear = contributed(first, last, given.unsqueeze(0))[0]
            rebuilt = linear + left_over(first, last, self.states[0], self.hidden[0])
            errors.append(relative_error(rebuilt, stream))
        return max(errors)

    @cached_property
    def _single_blocks(self) -> list[Tensor]:
        return [self.rollout(block, block + 1) for block in range(len(self.blocks))]

    def _parts(self, start: int, stop: int) -> Iterator[Tensor]:
        """Contributions of a few tokens at a time, ``read sample written *width``."""
        given = self.hidden[start]
        for first in range(0, given.shape[1], TOGETHER):
            tokens = range(first, min(first + TOGETHER, given.shape[1]))
            alone = given.new_zeros(len(tokens), *given.shape)
            for place, token in enumerate(tokens):
                alone[place, :, token] = given[:, token]
            yield contributed(self.states[start], self.states[stop], alone)

    def _between(self, start: int, stop: int | None) -> tuple[int, int]:
        last = len(self.blocks)
        chosen = last if stop is None else stop
        if not 0 <= start < chosen <= last:
            raise IndexError(
                f"Stack: streams are counted from 0 to {last}, and 'start' must be below 'stop', "
                f"but start is {start} and stop is {chosen}."
            )
        return start, chosen

    def __repr__(self) -> str:
        magnitude = f"{self.error:.0e}" if self.error else "the last bit"
        closed = f", {len(self.closed)} modules closed" if self.closed else ""
        return (
            f"Stack({self.inspection.model}: {len(self.blocks)} blocks, "
            f"{self.hidden[0].shape[1]} tokens{closed}; exact to {magnitude})"
        )
