"""A_t = small_t ⊗ I: a few states for every coordinate, which mix alike on all of them."""

from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.systems.transition.base import Transition
from dsf.systems.transition.dense import Dense
from dsf.systems.transition.scaled_identity import ScaledIdentity
from dsf.systems.transition.storage import cut, delay, flip, is_constant


@dataclass(frozen=True)
class Kronecker(Transition):
    """A small matrix per token that acts alike on each of ``size`` coordinates.

    State ``a * size + n`` is state ``a`` of coordinate ``n``.
    """

    small: Shaped[Tensor, "*batch time few few"]
    size: int

    @property
    def shape(self) -> torch.Size:
        states = self.few * self.size
        return torch.Size([*self.small.shape[:-2], states, states])

    @property
    def few(self) -> int:
        """How many states one coordinate has."""
        return self.small.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        return self.small.dtype

    @property
    def device(self) -> torch.device:
        return self.small.device

    def __matmul__(
        self, state: Shaped[Tensor, "*batch time state channel"]
    ) -> Shaped[Tensor, "*batch time state channel"]:
        by_coordinate = state.unflatten(-2, (self.few, self.size)).flatten(-2)
        return (self.small @ by_coordinate).reshape(state.shape)

    def compose(self, earlier: Transition) -> Transition:
        if isinstance(earlier, Kronecker) and earlier.size == self.size:
            return Kronecker(self.small @ earlier.small, self.size)
        if isinstance(earlier, ScaledIdentity):
            return Kronecker(self.small * earlier.decay[..., None, None], self.size)
        return Dense(self @ earlier.dense())

    def window(self, start: int, stop: int) -> "Kronecker":
        return Kronecker(cut(self.small, start, stop, axis=-3), self.size)

    def delayed(self, lag: int) -> "Kronecker":
        moved = delay(self.small, lag, axis=-3)
        identity = torch.eye(self.few, dtype=self.dtype, device=self.device)
        front = torch.arange(self.steps, device=self.device) < lag
        return Kronecker(torch.where(front[:, None, None], identity, moved), self.size)

    def flipped(self) -> "Kronecker":
        return Kronecker(flip(self.small, axis=-3), self.size)

    def transposed(self) -> "Kronecker":
        return Kronecker(self.small.mT, self.size)

    def decays(self) -> Shaped[Tensor, "*batch time state"]:
        return self.small.diagonal(dim1=-2, dim2=-1).repeat_interleave(self.size, dim=-1)

    @property
    def is_constant(self) -> bool:
        return is_constant(self.small, axis=-3)

    def dense(self) -> Shaped[Tensor, "*batch time state state"]:
        identity = torch.eye(self.size, dtype=self.dtype, device=self.device)
        spread = self.small[..., :, None, :, None] * identity[:, None, :]
        return spread.flatten(-2).flatten(-3, -2)
