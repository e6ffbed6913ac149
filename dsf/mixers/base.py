"""The base classes of all mixers: fields checked by axis name, a system, a signal, random draws."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar, dataclass_transform, get_args

import torch
from jaxtyping import Complex, Float, Inexact, Shaped
from torch import Tensor

from dsf.runtime.argument_checks import sizes_agree
from dsf.runtime.shapes import has_axes, of_kind, on_one_device
from dsf.systems.coefficient import axes_of, on_parts
from dsf.systems.composite import Operator

GENERATOR = "a generator such as torch.Generator().manual_seed(0)"
Law = Callable[..., Tensor]
"""A function of a generator and the sizes of the axes."""

SIZES: Mapping[str, tuple[int, ...]] = {
    "*batch": (2,),
    "*leading": (),
    "*one_or_state": (4,),
    "key": (4,),
    "state": (4,),
    "taps": (4,),
    "slot": (5,),
}
"""Sizes of axes by name; 3 for all others."""


def laws(**parts: Any) -> Mapping[str, Any]:
    """How fields are drawn, by name: laws of tensors, options, or sizes of axes."""
    return MappingProxyType(parts)


def normal(rng: torch.Generator, *size: int) -> Tensor:
    """Standard normal numbers."""
    of_kind("draw", "rng", rng, torch.Generator, GENERATOR)
    return torch.randn(*size, generator=rng, dtype=torch.float64)


def uniform(rng: torch.Generator, *size: int, low: float, high: float) -> Tensor:
    """Uniformly distributed numbers between ``low`` and ``high``."""
    of_kind("draw", "rng", rng, torch.Generator, GENERATOR)
    return low + (high - low) * torch.rand(*size, generator=rng, dtype=torch.float64)


def between(low: float, high: float) -> Law:
    """The law of uniformly distributed numbers between ``low`` and ``high``."""
    return partial(uniform, low=low, high=high)


def minus(low: float, high: float) -> Law:
    """The law of uniformly distributed numbers between ``-high`` and ``-low``."""
    return lambda rng, *size: -uniform(rng, *size, low=low, high=high)


def spread(rng: torch.Generator, *size: int) -> Tensor:
    """Normal numbers with a standard deviation of two."""
    return 2 * normal(rng, *size)


def directions(rng: torch.Generator, *size: int) -> Tensor:
    """Random vectors of length one along the last axis."""
    return torch.nn.functional.normalize(normal(rng, *size), dim=-1)


def complex_normal(rng: torch.Generator, *size: int) -> Tensor:
    """Complex numbers with standard normal parts."""
    return torch.complex(normal(rng, *size), normal(rng, *size))


def poles(rng: torch.Generator, *size: int) -> Tensor:
    """Stable continuous-time poles: real part in -1.5 ... -0.1, imaginary part in -3 ... 3."""
    return torch.complex(
        uniform(rng, *size, low=-1.5, high=-0.1), uniform(rng, *size, low=-3.0, high=3.0)
    )


Kind = TypeVar("Kind", bound="Mixer")
Coefficients = TypeVar("Coefficients")


@dataclass_transform(kw_only_default=True, frozen_default=True, eq_default=False)
def mixer(cls: type[Coefficients]) -> type[Coefficients]:
    """A frozen dataclass whose fields are named when it is made, compared by identity."""
    return dataclass(frozen=True, kw_only=True, eq=False, repr=False)(cls)


@mixer
class Mixer(ABC):
    """One architecture's coefficients on one sequence.

    The annotation of a field defines its shape check: sizes are compared by axis name when the
    mixer is built, so subclasses need no shape checks. Nothing is broadcast silently.

    Attributes:
        drawn: for :meth:`draw`: options, and laws of tensors, functions of a generator and sizes.
        drawn_sizes: sizes of axes in :meth:`draw` that are not the usual ones.
    """

    drawn: ClassVar[Mapping[str, Any]] = {}
    drawn_sizes: ClassVar[Mapping[str, tuple[int, ...]]] = {}

    def __post_init__(self) -> None:
        owner = type(self).__name__
        tensors: list[tuple[str, str, Tensor]] = []
        for field in fields(self):
            axes, part = axes_of(field.type), getattr(self, field.name)
            if axes is None or (part is None and type(None) in get_args(field.type)):
                continue
            if not isinstance(part, Tensor):
                raise TypeError(
                    f"{owner}: '{field.name}' must be a torch tensor with the axes '{axes}', "
                    f"but it is {type(part).__name__}."
                )
            has_axes(owner, field.name, tuple(part.shape), axes)
            tensors.append((field.name, axes, part))
        sizes_agree(owner, tensors)
        on_one_device(owner, **{name: part.device for name, _, part in tensors})

    def __repr__(self) -> str:
        """The sizes of the tensors and the options, not the numbers."""
        parts = []
        for field in fields(self):
            part = getattr(self, field.name)
            if isinstance(part, Tensor):
                parts.append(f"{field.name} {tuple(part.shape)}")
            elif part is not None:
                parts.append(f"{field.name}={getattr(part, '__name__', part)}")
        return f"{type(self).__name__}({', '.join(parts)})"

    def to(self: Kind, device: torch.device | str) -> Kind:
        """The same mixer with all of its tensors on a device; all else is kept."""
        return on_parts(self, lambda part: part.to(device))

    @abstractmethod
    def system(self) -> Operator:
        """The mixer as a system."""

    def signal(self) -> Shaped[Tensor, "*batch time input channel"]:
        """The signal that drives the system: the field ``value``, whose channels share it."""
        value: Tensor = vars(self)["value"]
        return value.unsqueeze(-2)

    @classmethod
    def draw(cls: type[Kind], rng: torch.Generator, *, steps: int) -> Kind:
        """A random instance in float64 with every part non-zero, for laws and examples.

        Tensors without a default are normal, or have normal parts where they are complex, unless
        :attr:`drawn` has another law.
        """
        levels = ((steps - 1).bit_length() + 1,)
        sizes = {**SIZES, "time": (steps,), "read": (steps,), "level": levels, **cls.drawn_sizes}
        parts = {}
        for field in fields(cls):
            is_complex = getattr(field.type, "dtype", None) is Complex
            usual = complex_normal if is_complex else normal
            part = cls.drawn.get(field.name, usual if field.default is MISSING else None)
            if callable(part):
                axes = (axes_of(field.type) or "").split()
                part = part(rng, *(size for axis in axes for size in sizes.get(axis, (3,))))
            if part is not None:
                parts[field.name] = part
        return cls(**parts)


@mixer
class KeyedMixer(Mixer):
    """A mixer of values by queries and keys."""

    query: Float[Tensor, "*batch time key"]
    key: Float[Tensor, "*batch time key"]
    value: Float[Tensor, "*batch time channel"]


@mixer
class ComplexKeyedMixer(Mixer):
    """A mixer of values by queries and keys that may be complex."""

    query: Inexact[Tensor, "*batch time key"]
    key: Inexact[Tensor, "*batch time key"]
    value: Inexact[Tensor, "*batch time channel"]


@mixer
class ChannelMixer(Mixer):
    """A mixer with a system for every channel of ``value``. System batch: ``*batch channel``."""

    value: Float[Tensor, "*batch time channel"]

    def signal(self) -> Shaped[Tensor, "*batch channel time 1 1"]:
        return self.value.mT[..., None, None]
