"""Lazy input, output and feedthrough matrices, evaluated for a window of tokens at a time."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.systems.transition.storage import (
    Parts,
    along_time,
    cast,
    cut,
    flip,
)


class Coefficient(Parts, ABC):
    """Matrices B_t, C_t or D_t of every token, computed when they are needed.

    Behaves like a tensor of shape ``(*batch, time, rows, columns)``: indexing, ``@`` and torch
    functions compute all of it, ``window`` computes only the requested tokens.
    """

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """The shape it would have if written out."""

    @abstractmethod
    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time rows columns"]:
        """The matrices of the tokens ``start`` to ``stop - 1``, written out."""

    def flipped(self) -> "Coefficient":
        """The tokens in reverse order."""
        return along_time(self, lambda part, axis: flip(part, axis=axis))

    def cut(self, start: int, stop: int) -> "Matrices":
        """The tokens ``start`` to ``stop - 1``, kept lazy where the class supports it."""
        return self.window(start, stop)

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
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return func(*_plain(args), **_plain(kwargs or {}))


Matrices = Tensor | Coefficient


def cut_of(part: Matrices, start: int, stop: int, dtype: torch.dtype | None = None) -> Matrices:
    """The matrices of the tokens ``start`` to ``stop - 1`` in the type ``dtype``.

    Lazy where the coefficient supports it; lazily sampled values are then computed in that type,
    not rounded to it afterwards.
    """
    if isinstance(part, Coefficient):
        few = part.cut(start, stop)
        return few.to(dtype=dtype) if isinstance(few, Coefficient) else cast(few, dtype=dtype)
    return cast(cut(part, start, stop, axis=-3), dtype=dtype)


def flipped(part: Matrices) -> Matrices:
    return part.flipped() if isinstance(part, Coefficient) else flip(part, axis=-3)


def dense_of(part: Matrices) -> Shaped[Tensor, "*batch time rows columns"]:
    return part.dense() if isinstance(part, Coefficient) else part


def _plain(given: Any) -> Any:
    """The arguments of a torch function with every lazy coefficient replaced by its tensor."""
    if isinstance(given, Coefficient):
        return given.dense()
    if type(given) in (list, tuple):
        return type(given)(_plain(each) for each in given)
    if type(given) is dict:
        return {name: _plain(each) for name, each in given.items()}
    return given


@dataclass(frozen=True)
class SampledWrite(Coefficient):
    """B_t = step_t write_t; channels that share ``write`` store it once (stride 0)."""

    step: Shaped[Tensor, "*batch time"]
    write: Shaped[Tensor, "*batch time state"]

    @property
    def shape(self) -> torch.Size:
        return torch.Size([*self.write.shape, 1])

    def __matmul__(self, right: Tensor) -> Tensor:
        """Scale the signal by the step: it has fewer numbers than B."""
        return self.write.unsqueeze(-1) * (self.step[..., None, None] * right)

    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time state 1"]:
        step = cut(self.step, start, stop, axis=-1)
        return (step.unsqueeze(-1) * cut(self.write, start, stop, axis=-2)).unsqueeze(-1)

    def cut(self, start: int, stop: int) -> "SampledWrite":
        return along_time(self, lambda part, axis: cut(part, start, stop, axis=axis))


@dataclass(frozen=True)
class TokenSlots(Coefficient):
    """B_t = e_t: token ``t`` is stored in state ``t``, as in an attention cache."""

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

    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time state 1"]:
        tokens = cut(self.tokens, start, stop, axis=-1)
        slots = torch.arange(self.slots, device=self.device)
        one_hot = (tokens[:, None] == slots).to(self.dtype).unsqueeze(-1)
        return one_hot.expand(*self.leading, stop - start, self.slots, 1)

    def cut(self, start: int, stop: int) -> "TokenSlots":
        return along_time(self, lambda part, axis: cut(part, start, stop, axis=axis))
