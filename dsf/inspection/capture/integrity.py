"""Whether a mixer is still the one that was compared with its layer."""

from dataclasses import fields
from typing import Any

from torch import Tensor

from dsf.mixers import Mixer


class Fingerprint:
    """The parts of a mixer at the moment it was checked: the same objects, not written into since.

    A copy (or a pickle) of an intact fingerprint is intact for the copied parts.
    """

    def __init__(self, mixer: Mixer):
        self._parts = _parts(mixer)
        self._versions = [times_written(part) for part in self._parts]

    def matches(self, mixer: Mixer) -> bool:
        """Whether ``mixer`` is what was compared."""
        parts = _parts(mixer)
        same = len(parts) == len(self._parts)
        return same and self._intact() and all(map(_is, parts, self._parts))

    def _intact(self) -> bool:
        return [times_written(part) for part in self._parts] == self._versions

    def __getstate__(self) -> tuple[list[Any], bool]:
        return self._parts, self._intact()

    def __setstate__(self, state: tuple[list[Any], bool]) -> None:
        self._parts, intact = state
        self._versions = [times_written(part) if intact else -1 for part in self._parts]


def _parts(mixer: Mixer) -> list[Any]:
    return [type(mixer), *(getattr(mixer, field.name) for field in fields(mixer))]


def times_written(part: Any) -> int:
    """How often torch wrote into a tensor in place; not counted in inference mode."""
    return part._version if isinstance(part, Tensor) and not part.is_inference() else 0


def _is(one: Any, other: Any) -> bool:
    return one is other or (not isinstance(one, Tensor) and one == other)
