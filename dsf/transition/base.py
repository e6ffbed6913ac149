"""What every structure of A_t can do."""

from abc import ABC, abstractmethod
from typing import Any, TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.transition.storage import cast, on_parts, picked

Maps = TypeVar("Maps", bound="Transition")


class Transition(ABC):
    """The maps A_1 ... A_T of one system, stored by their structure.

    ``shape`` is ``(*batch, time, state, state)`` whatever the storage. Indices count from 0.
    """

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """The shape the maps would have if written out: ``(*batch, time, state, state)``."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The number type of the maps."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the maps live."""

    @property
    def batch(self) -> torch.Size:
        """The leading axes."""
        return self.shape[:-3]

    @property
    def steps(self) -> int:
        """How many tokens the maps cover."""
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
        """A_t after ``earlier_t``, token by token. Closed where it can be, dense otherwise."""

    @abstractmethod
    def window(self, start: int, stop: int) -> "Transition":
        """The tokens ``start`` to ``stop - 1``. What was sampled lazily is written out here."""

    def cut(self, start: int, stop: int) -> "Transition":
        """The tokens ``start`` to ``stop - 1``, sampled lazily where the whole is."""
        return self.window(start, stop)

    def finer(self: Maps) -> Maps:
        """The same maps; what is sampled lazily will be sampled in double precision.

        A decay close to one that is rounded to single precision loses 3e-8 at every token, always
        in one direction.
        """
        return self

    @abstractmethod
    def delayed(self, lag: int) -> "Transition":
        """Every map moved ``lag`` tokens later, identities in front; ``lag`` is at least 0."""

    @abstractmethod
    def flipped(self) -> "Transition":
        """The tokens in reverse order."""

    @abstractmethod
    def transposed(self) -> "Transition":
        """Every map transposed (not conjugated)."""

    def to(
        self: Maps, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Maps:
        """The same maps in another number type or on another device.

        What is complex stays complex, in the precision of ``dtype``.
        """
        return on_parts(self, lambda part: cast(part, dtype=dtype, device=device))

    def picked(self: Maps, index: Any, batch: torch.Size) -> Maps:
        """The entries ``index`` of the batch axes, which leave the axes ``batch``."""
        return picked(self, index, batch)

    def diagonal(self) -> Shaped[Tensor, "*batch time state"] | None:
        """The diagonals, if the structure has nothing beside them; else None."""
        return None

    @property
    @abstractmethod
    def is_constant(self) -> bool:
        """Whether every token has the same map."""

    @abstractmethod
    def dense(self) -> Shaped[Tensor, "*batch time state state"]:
        """The maps written out."""
