"""A run of several blocks as one linear network: what each token adds to each token."""

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

    Stream ``k`` is what enters block ``k``; the last one is what leaves the last block. Tokens are
    in the order of the model's input.

    Attributes:
        inspection: the layers, each with its own map and error.
        blocks: the paths of the blocks.
        hidden: the streams of the run, one more than blocks. A model with several streams side by
            side (hyper-connections) has a further axis for these.
        closed: modules that are held as the smallest matrix for every token.
        states: the steps that lead to every stream.
    """

    inspection: Inspection
    blocks: tuple[str, ...]
    hidden: tuple[Float[Tensor, "sample time *width"], ...]
    closed: tuple[str, ...]
    states: tuple[Step, ...]

    def contributions(
        self, start: int = 0, stop: int | None = None
    ) -> Float[Tensor, "sample written read *width"]:
        """What each token of stream ``start`` adds to each token of stream ``stop``, as vectors.

        Summed over ``read``, with the remainder, they are ``hidden[stop]``. Every way counts:
        through the mixers, through what stands between them, and past both.

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
        """What of stream ``stop`` does not come from stream ``start``: biases, and ways around."""
        start, stop = self._between(start, stop)
        return left_over(self.states[start], self.states[stop], self.states[0], self.hidden[0])

    def rollout(
        self, start: int = 0, stop: int | None = None
    ) -> Float[Tensor, "sample written read"]:
        """The part of each token of stream ``stop`` that comes from each token of ``start``.

        Signed, and exact: the contribution along the stream, over the stream's squared length. A
        row sums to one less the share of the remainder; a token that pushes the other way has a
        negative share, and single shares can be beyond one.
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

        Between blocks only one number of every contribution is kept, not its direction, as
        attention rollout does. Any pair of streams costs a product once the blocks are known.
        """
        start, stop = self._between(start, stop)
        return reduce(lambda earlier, later: later @ earlier, self._single_blocks[start:stop])

    @cached_property
    def error(self) -> float:
        """The largest relative difference between a stream and what the one before makes of it."""
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
                f"Stack: streams are counted from 0 to {last}, and 'start' comes before 'stop', "
                f"but start is {start} and stop is {chosen}."
            )
        return start, chosen

    def __repr__(self) -> str:
        magnitude = f"{self.error:.0e}" if self.error else "the last bit"
        held = f", {len(self.closed)} modules closed" if self.closed else ""
        return (
            f"Stack({self.inspection.model}: {len(self.blocks)} blocks, "
            f"{self.hidden[0].shape[1]} tokens{held}; exact to {magnitude})"
        )
