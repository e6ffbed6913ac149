"""Input, output and feedthrough matrices that are too large to be written out at once."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.transition.timeline import cut


class Coefficient(ABC):
    """Matrices B_t or C_t of every token, computed where they are looked at.

    Behaves like a tensor of shape ``(*batch, time, rows, columns)``: indexing, ``@`` and torch
    functions write it out, ``window`` writes out only the tokens it is asked for.
    """

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """The shape it would have if written out."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The number type."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where it lives."""

    @abstractmethod
    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time rows columns"]:
        """The matrices of the tokens ``start`` to ``stop - 1``, written out."""

    @abstractmethod
    def flipped(self) -> "Coefficient":
        """The tokens in reverse order."""

    def dense(self) -> Shaped[Tensor, "*batch time rows columns"]:
        """All matrices written out."""
        return self.window(0, self.shape[-3])

    def __getitem__(self, index: Any) -> Tensor:
        return self.dense()[index]

    def __matmul__(self, right: Tensor) -> Tensor:
        return self.dense() @ right

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: tuple[type, ...],  # noqa: ARG003 (torch's protocol)
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        plain = [part.dense() if isinstance(part, Coefficient) else part for part in args]
        return func(*plain, **(kwargs or {}))


@dataclass(frozen=True)
class SampledWrite(Coefficient):
    """B_t = step_t write_t, with one ``write`` shared by many channels (stride 0 costs nothing)."""

    step: Shaped[Tensor, "*batch time"]
    write: Shaped[Tensor, "*batch time state"]

    @property
    def shape(self) -> torch.Size:
        return torch.Size([*self.write.shape, 1])

    @property
    def dtype(self) -> torch.dtype:
        return torch.promote_types(self.step.dtype, self.write.dtype)

    @property
    def device(self) -> torch.device:
        return self.step.device

    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time state 1"]:
        step = cut(self.step, start, stop, axis=-1)
        return (step.unsqueeze(-1) * cut(self.write, start, stop, axis=-2)).unsqueeze(-1)

    def flipped(self) -> "SampledWrite":
        return SampledWrite(self.step.flip(-1), self.write.flip(-2))


@dataclass(frozen=True)
class TokenSlots(Coefficient):
    """B_t = e_t: token ``t`` is kept in state ``t``, as in an attention cache."""

    tokens: Shaped[Tensor, " time"]
    slots: int
    leading: torch.Size
    like: Shaped[Tensor, ""]

    @classmethod
    def cache(cls, like: Tensor, *, batch: torch.Size, steps: int) -> "TokenSlots":
        """One slot for every token, of the dtype and device of ``like``."""
        return cls(torch.arange(steps, device=like.device), steps, batch, like.new_zeros(()))

    @property
    def shape(self) -> torch.Size:
        return torch.Size([*self.leading, self.tokens.shape[0], self.slots, 1])

    @property
    def dtype(self) -> torch.dtype:
        return self.like.dtype

    @property
    def device(self) -> torch.device:
        return self.tokens.device

    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time state 1"]:
        tokens = cut(self.tokens, start, stop, axis=-1)
        slots = torch.arange(self.slots, device=self.device)
        one_hot = (tokens[:, None] == slots).to(self.dtype).unsqueeze(-1)
        return one_hot.expand(*self.leading, stop - start, self.slots, 1)

    def flipped(self) -> "TokenSlots":
        return TokenSlots(self.tokens.flip(-1), self.slots, self.leading, self.like)
