"""A_t = exp(step_t diag(pole)): a continuous-time diagonal, discretised when it is needed."""

from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.runtime.number_types import exact_dtype
from dsf.systems.transition.base import Transition
from dsf.systems.transition.diagonal import Diagonal
from dsf.systems.transition.storage import cut, delay, flip, is_constant


@dataclass(frozen=True)
class SampledDiagonal(Transition):
    """The selective diagonal of Mamba, stored as step sizes and poles.

    Written out it would take ``time x channel x state`` numbers; ``window`` computes only the
    requested tokens.
    """

    step: Shaped[Tensor, "*batch time"]
    pole: Shaped[Tensor, "*batch state"]

    @property
    def shape(self) -> torch.Size:
        states = self.pole.shape[-1]
        return torch.Size([*self.step.shape, states, states])

    @property
    def dtype(self) -> torch.dtype:
        return torch.promote_types(self.step.dtype, self.pole.dtype)

    @property
    def device(self) -> torch.device:
        return self.step.device

    def window(self, start: int, stop: int) -> Diagonal:
        return self._sampled(cut(self.step, start, stop, axis=-1))

    def _sampled(self, step: Tensor) -> Diagonal:
        return Diagonal((step.unsqueeze(-1) * self.pole.unsqueeze(-2)).exp_())

    def finer(self) -> "SampledDiagonal":
        return self.to(dtype=exact_dtype(self.dtype, self.device))

    def __matmul__(
        self, state: Shaped[Tensor, "*batch time state channel"]
    ) -> Shaped[Tensor, "*batch time state channel"]:
        """Sampled in the number type of the state, which is accurate enough for one product."""
        alike = self.to(dtype=state.dtype)
        return alike._sampled(alike.step) @ state

    def compose(self, earlier: Transition) -> Transition:
        if isinstance(earlier, SampledDiagonal) and earlier.pole is self.pole:
            return SampledDiagonal(self.step + earlier.step, self.pole)
        return self._sampled(self.step).compose(earlier)

    def cut(self, start: int, stop: int) -> "SampledDiagonal":
        return SampledDiagonal(cut(self.step, start, stop, axis=-1), self.pole)

    def delayed(self, lag: int) -> "SampledDiagonal":
        return SampledDiagonal(delay(self.step, lag, axis=-1), self.pole)

    def flipped(self) -> "SampledDiagonal":
        return SampledDiagonal(flip(self.step, axis=-1), self.pole)

    def transposed(self) -> "SampledDiagonal":
        return self

    def diagonal(self) -> Shaped[Tensor, "*batch time state"]:
        """The decays, with time as the slowest axis in memory, as recurrences read them."""
        by_time = self.step.movedim(-1, 0).contiguous().unsqueeze(-1)
        return (by_time * self.pole).exp_().movedim(0, -2)

    @property
    def is_constant(self) -> bool:
        return is_constant(self.step, axis=-1)

    def dense(self) -> Shaped[Tensor, "*batch time state state"]:
        return self._sampled(self.step).dense()
