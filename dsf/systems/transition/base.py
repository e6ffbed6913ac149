"""The interface that every structure of A_t implements."""

from abc import ABC, abstractmethod
from typing import Any, TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.systems.transition.storage import (
    along_time,
    cast,
    cut,
    device_of,
    dtype_of,
    flip,
    is_constant,
    on_parts,
    picked,
    time_axes,
)

Maps = TypeVar("Maps", bound="Transition")


class Transition(ABC):
    """The transition matrices A_1 ... A_T of one system, stored by their structure.

    ``shape`` is ``(*batch, time, state, state)`` whatever the storage. Token indices count from 0.
    """

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """The shape of the matrices if written out: ``(*batch, time, state, state)``."""

    @property
    def dtype(self) -> torch.dtype:
        """The number type of the matrices."""
        return dtype_of(self)

    @property
    def device(self) -> torch.device:
        """The device the matrices are stored on."""
        return device_of(self)

    @property
    def batch(self) -> torch.Size:
        """The leading axes."""
        return self.shape[:-3]

    @property
    def steps(self) -> int:
        """The number of tokens."""
        return self.shape[-3]

    @property
    def state_size(self) -> int:
        """How many states one channel has."""
        return self.shape[-1]

    @abstractmethod
    def __matmul__(
        self, state: Shaped[Tensor, "*batch time state channel"]
    ) -> Shaped[Tensor, "*batch time state channel"]:
        """A_t applied to the state of the same token."""

    @abstractmethod
    def compose(self, earlier: "Transition") -> "Transition":
        """The products ``A_t earlier_t``, token by token.

        In the same structure where it is closed under products, dense otherwise.
        """

    def window(self, start: int, stop: int) -> "Transition":
        """The tokens ``start`` to ``stop - 1``, with lazily sampled values computed."""
        return self.cut(start, stop)

    def cut(self: Maps, start: int, stop: int) -> Maps:
        """The tokens ``start`` to ``stop - 1``; lazily sampled values stay lazy."""
        return along_time(self, lambda part, axis: cut(part, start, stop, axis=axis))

    def finer(self: Maps) -> Maps:
        """The same matrices; lazily sampled values will be computed in double precision.

        Rounding a decay close to one to single precision gives a relative error of 3e-8 at every
        token, always of the same sign.
        """
        return self

    @abstractmethod
    def delayed(self, lag: int) -> "Transition":
        """Every matrix ``lag`` tokens later, identities in front; ``lag`` is at least 0."""

    def flipped(self: Maps) -> Maps:
        """The tokens in reverse order."""
        return along_time(self, lambda part, axis: flip(part, axis=axis))

    @abstractmethod
    def transposed(self) -> "Transition":
        """Every matrix transposed (not conjugated)."""

    def to(
        self: Maps, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Maps:
        """The same matrices in another number type or on another device.

        Complex parts stay complex, in the precision of ``dtype``.
        """
        return on_parts(self, lambda part: cast(part, dtype=dtype, device=device))

    def picked(self: Maps, index: Any, batch: torch.Size) -> Maps:
        """The entries ``index`` of the batch axes; ``batch`` is the shape of what remains."""
        return picked(self, index, batch)

    def diagonal(self) -> Shaped[Tensor, "*batch time state"] | None:
        """The diagonals if the structure is diagonal, else None."""
        return None

    def decays(self) -> Shaped[Tensor, "*batch time state"]:
        """The factor by which each state keeps itself: the diagonal part of the structure.

        What is left of A_t removes what is stored or moves it to other states: the low-rank part of
        a delta rule, the entries off the diagonal of a dense matrix.
        """
        own = self.diagonal()
        return self.dense().diagonal(dim1=-2, dim2=-1) if own is None else own

    @property
    def is_constant(self) -> bool:
        """Whether every token has the same matrix."""
        axes = time_axes(type(self)).items()
        return all(is_constant(getattr(self, name), axis=axis) for name, axis in axes)

    @abstractmethod
    def dense(self) -> Shaped[Tensor, "*batch time state state"]:
        """The matrices written out."""
