"""Dense transitions: an arbitrary matrix A_t at every token."""

from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.systems.transition.base import Transition
from dsf.systems.transition.storage import cut, delay, flip, is_constant


@dataclass(frozen=True)
class Dense(Transition):
    """A matrix without structure at every token."""

    matrix: Shaped[Tensor, "*batch time state state"]

    @property
    def shape(self) -> torch.Size:
        return self.matrix.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.matrix.dtype

    @property
    def device(self) -> torch.device:
        return self.matrix.device

    def __matmul__(
        self, state: Shaped[Tensor, "*batch time state channel"]
    ) -> Shaped[Tensor, "*batch time state channel"]:
        return self.matrix @ state

    def compose(self, earlier: Transition) -> "Dense":
        return Dense(self.matrix @ earlier.dense())

    def window(self, start: int, stop: int) -> "Dense":
        return Dense(cut(self.matrix, start, stop, axis=-3))

    def delayed(self, lag: int) -> "Dense":
        moved = delay(self.matrix, lag, axis=-3)
        identity = torch.eye(self.state_size, dtype=self.dtype, device=self.device)
        front = torch.arange(self.steps, device=self.device) < lag
        return Dense(torch.where(front[:, None, None], identity, moved))

    def flipped(self) -> "Dense":
        return Dense(flip(self.matrix, axis=-3))

    def transposed(self) -> "Dense":
        return Dense(self.matrix.mT)

    @property
    def is_constant(self) -> bool:
        return is_constant(self.matrix, axis=-3)

    def dense(self) -> Shaped[Tensor, "*batch time state state"]:
        return self.matrix
