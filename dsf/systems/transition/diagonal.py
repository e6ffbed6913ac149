"""A_t = diag(decay_t): every state has its own decay."""

from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.systems.transition.base import Transition
from dsf.systems.transition.dense import Dense
from dsf.systems.transition.storage import cut, delay, flip, is_constant


@dataclass(frozen=True)
class Diagonal(Transition):
    """One decay, a factor per token, for every state."""

    decay: Shaped[Tensor, "*batch time state"]

    @property
    def shape(self) -> torch.Size:
        return torch.Size([*self.decay.shape, self.decay.shape[-1]])

    @property
    def dtype(self) -> torch.dtype:
        return self.decay.dtype

    @property
    def device(self) -> torch.device:
        return self.decay.device

    def __matmul__(
        self, state: Shaped[Tensor, "*batch time state channel"]
    ) -> Shaped[Tensor, "*batch time state channel"]:
        return self.decay.unsqueeze(-1) * state

    def compose(self, earlier: Transition) -> Transition:
        decay = earlier.diagonal()
        if decay is not None:
            return Diagonal(self.decay * decay)
        return Dense(self @ earlier.dense())

    def window(self, start: int, stop: int) -> "Diagonal":
        return Diagonal(cut(self.decay, start, stop, axis=-2))

    def delayed(self, lag: int) -> "Diagonal":
        return Diagonal(delay(self.decay, lag, axis=-2, fill=1.0))

    def flipped(self) -> "Diagonal":
        return Diagonal(flip(self.decay, axis=-2))

    def transposed(self) -> "Diagonal":
        return self

    def diagonal(self) -> Shaped[Tensor, "*batch time state"]:
        return self.decay

    @property
    def is_constant(self) -> bool:
        return is_constant(self.decay, axis=-2)

    def dense(self) -> Shaped[Tensor, "*batch time state state"]:
        return torch.diag_embed(self.decay)
