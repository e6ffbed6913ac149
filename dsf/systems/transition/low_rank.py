"""A_t = diag(decay_t) + left_t right_tᵀ: delta rules, S4, RWKV-7."""

from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.systems.transition.base import Transition
from dsf.systems.transition.dense import Dense
from dsf.systems.transition.storage import cut, delay, flip, is_constant


@dataclass(frozen=True)
class DiagonalPlusLowRank(Transition):
    """A diagonal and an update of low rank at every token. ``right`` is transposed, not conjugated.

    Not closed under composition: the product of two is dense. Where all states share a decay, give
    it as ``decay.expand(*decay.shape[:-1], state)``, one stored number a token: windows of tokens
    are then folded by the cheaper algorithm for a scalar decay.
    """

    decay: Shaped[Tensor, "*batch time state"]
    left: Shaped[Tensor, "*batch time state rank"]
    right: Shaped[Tensor, "*batch time state rank"]

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
        return self.decay.unsqueeze(-1) * state + self.left @ (self.right.mT @ state)

    def compose(self, earlier: Transition) -> Dense:
        return Dense(self @ earlier.dense())

    def window(self, start: int, stop: int) -> "DiagonalPlusLowRank":
        return DiagonalPlusLowRank(
            cut(self.decay, start, stop, axis=-2),
            cut(self.left, start, stop, axis=-3),
            cut(self.right, start, stop, axis=-3),
        )

    def delayed(self, lag: int) -> "DiagonalPlusLowRank":
        return DiagonalPlusLowRank(
            delay(self.decay, lag, axis=-2, fill=1.0),
            delay(self.left, lag, axis=-3),
            delay(self.right, lag, axis=-3),
        )

    def flipped(self) -> "DiagonalPlusLowRank":
        return DiagonalPlusLowRank(
            flip(self.decay, axis=-2), flip(self.left, axis=-3), flip(self.right, axis=-3)
        )

    def transposed(self) -> "DiagonalPlusLowRank":
        return DiagonalPlusLowRank(self.decay, self.right, self.left)

    def decays(self) -> Shaped[Tensor, "*batch time state"]:
        return self.decay

    @property
    def is_constant(self) -> bool:
        return (
            is_constant(self.decay, axis=-2)
            and is_constant(self.left, axis=-3)
            and is_constant(self.right, axis=-3)
        )

    def dense(self) -> Shaped[Tensor, "*batch time state state"]:
        return torch.diag_embed(self.decay) + self.left @ self.right.mT
