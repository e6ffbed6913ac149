"""A_t shifts the states by one position and drops the last: the delay line of a convolution."""

from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.systems.transition.base import Transition
from dsf.systems.transition.dense import Dense
from dsf.systems.transition.storage import cut, delay, flip, is_constant


@dataclass(frozen=True)
class Shift(Transition):
    """State ``n`` becomes state ``n + places``; a negative number shifts backward.

    ``places`` may differ from token to token: the identity (0 places) is a shift too, and products
    of shifts in one direction are shifts.
    """

    places: Shaped[Tensor, " time"]
    size: int
    leading: torch.Size
    like: Shaped[Tensor, ""]

    @classmethod
    def register(cls, like: Tensor, *, batch: torch.Size, steps: int, size: int) -> "Shift":
        """A delay line of ``size`` states at every token, of the dtype and device of ``like``."""
        places = torch.ones(steps, dtype=torch.long, device=like.device)
        return cls(places, size, batch, like.new_zeros(()))

    @property
    def shape(self) -> torch.Size:
        return torch.Size([*self.leading, self.places.shape[0], self.size, self.size])

    @property
    def dtype(self) -> torch.dtype:
        return self.like.dtype

    @property
    def device(self) -> torch.device:
        return self.places.device

    def __matmul__(
        self, state: Shaped[Tensor, "*batch time state channel"]
    ) -> Shaped[Tensor, "*batch time state channel"]:
        source = torch.arange(self.size, device=self.device) - self.places[:, None]
        inside = (source >= 0) & (source < self.size)
        index = source.clamp(0, self.size - 1).unsqueeze(-1).expand_as(state)
        return torch.where(inside.unsqueeze(-1), state.gather(-2, index), 0)

    def compose(self, earlier: Transition) -> Transition:
        if isinstance(earlier, Shift) and bool((self.places * earlier.places >= 0).all()):
            return Shift(self.places + earlier.places, self.size, self.leading, self.like)
        return Dense(self @ earlier.dense())

    def window(self, start: int, stop: int) -> "Shift":
        return Shift(cut(self.places, start, stop, axis=-1), self.size, self.leading, self.like)

    def delayed(self, lag: int) -> "Shift":
        return Shift(delay(self.places, lag, axis=-1), self.size, self.leading, self.like)

    def flipped(self) -> "Shift":
        return Shift(flip(self.places, axis=-1), self.size, self.leading, self.like)

    def transposed(self) -> "Shift":
        return Shift(-self.places, self.size, self.leading, self.like)

    @property
    def is_constant(self) -> bool:
        return is_constant(self.places, axis=-1)

    def dense(self) -> Shaped[Tensor, "*batch time state state"]:
        identity = torch.eye(self.size, dtype=self.dtype, device=self.device)
        return self @ identity.expand(self.shape)
