"""A_t = decay_t I: all states of a channel share one decay."""

from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.systems.transition.base import Transition
from dsf.systems.transition.dense import Dense
from dsf.systems.transition.diagonal import Diagonal
from dsf.systems.transition.storage import cut, delay, flip, is_constant


@dataclass(frozen=True)
class ScaledIdentity(Transition):
    """One decay, a factor per token, for all ``size`` states."""

    decay: Shaped[Tensor, "*batch time"]
    size: int

    @property
    def shape(self) -> torch.Size:
        return torch.Size([*self.decay.shape, self.size, self.size])

    @property
    def dtype(self) -> torch.dtype:
        return self.decay.dtype

    @property
    def device(self) -> torch.device:
        return self.decay.device

    def __matmul__(
        self, state: Shaped[Tensor, "*batch time state channel"]
    ) -> Shaped[Tensor, "*batch time state channel"]:
        return self.decay[..., None, None] * state

    def compose(self, earlier: Transition) -> Transition:
        if isinstance(earlier, ScaledIdentity):
            return ScaledIdentity(self.decay * earlier.decay, self.size)
        decay = earlier.diagonal()
        if decay is not None:
            return Diagonal(self.diagonal() * decay)
        return Dense(self @ earlier.dense())

    def window(self, start: int, stop: int) -> "ScaledIdentity":
        return ScaledIdentity(cut(self.decay, start, stop, axis=-1), self.size)

    def delayed(self, lag: int) -> "ScaledIdentity":
        return ScaledIdentity(delay(self.decay, lag, axis=-1, fill=1.0), self.size)

    def flipped(self) -> "ScaledIdentity":
        return ScaledIdentity(flip(self.decay, axis=-1), self.size)

    def transposed(self) -> "ScaledIdentity":
        return self

    def diagonal(self) -> Shaped[Tensor, "*batch time state"]:
        return self.decay.unsqueeze(-1).expand(*self.decay.shape, self.size)

    @property
    def is_constant(self) -> bool:
        return is_constant(self.decay, axis=-1)

    def dense(self) -> Shaped[Tensor, "*batch time state state"]:
        identity = torch.eye(self.size, dtype=self.dtype, device=self.device)
        return self.decay[..., None, None] * identity
