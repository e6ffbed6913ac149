"""What laws are measured on: a class of mixers, drawn at any length, or one instance."""

from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

LENGTHS = (1, 2, 9, 65)


class Subject:
    """A class that is drawn at any length, or one instance."""

    def __init__(self, mixer_or_class: Any, seed: int):
        self._given, self._seed = mixer_or_class, seed
        self._drawn = isinstance(mixer_or_class, type)
        needed = ("system", "signal", "draw") if self._drawn else ("system", "signal")
        missing = [name for name in needed if not hasattr(mixer_or_class, name)]
        if missing or not is_dataclass(mixer_or_class):
            lacking = f"has no {', '.join(missing)}" if missing else "is no dataclass"
            raise TypeError(
                f"check_mixer: needs a dataclass with system() and signal(), a class also with "
                f"draw(rng, steps=...), but {mixer_or_class!r} {lacking}. Derive it from "
                "dsf.mixers.Mixer."
            )
        owner: Any = mixer_or_class if self._drawn else type(mixer_or_class)
        self.owner: str = owner.__name__

    @property
    def described(self) -> str:
        """What the laws are measured on."""
        if not self._drawn:
            return "one instance"
        return f"random instances of {', '.join(map(str, LENGTHS))} tokens, seed {self._seed}"

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many tokens the instances have; 0 for the one that was given."""
        return LENGTHS if self._drawn else (0,)

    def mixer(self, steps: int) -> Any:
        """The instance, in double precision."""
        if not self._drawn:
            return as_type(self._given, torch.float64)
        rng = torch.Generator().manual_seed(self._seed)
        return as_type(self._given.draw(rng, steps=steps), torch.float64)

    def label(self, steps: int, **more: Any) -> dict[str, Any]:
        """What names a case."""
        return {**more, "tokens": steps} if self._drawn else more


def floating(mixer: Any) -> dict[str, Tensor]:
    """The real and complex tensors of a mixer by name."""
    parts = {field.name: getattr(mixer, field.name) for field in fields(mixer)}
    return {
        name: part
        for name, part in parts.items()
        if isinstance(part, Tensor) and (part.is_floating_point() or part.is_complex())
    }


def as_type(mixer: Any, dtype: torch.dtype) -> Any:
    """The mixer in another precision; complex parts stay complex."""
    parts = floating(mixer)
    changed = {
        name: part.to(dtype.to_complex() if part.is_complex() else dtype)
        for name, part in parts.items()
    }
    return replace(mixer, **changed)
