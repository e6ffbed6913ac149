"""Detects whether a mixer was changed after it was compared with its layer."""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from dsf.mixers import Mixer


class Fingerprint:
    """The fields of a mixer when it was compared: the same objects, unchanged since.

    In-place changes are detected by torch's version counters. A copy or pickle of an intact
    fingerprint is intact for the copied fields.
    """

    def __init__(self, mixer: Mixer):
        self._parts = _parts(mixer)
        self._versions = [times_written(part) for part in self._parts]

    def matches(self, mixer: Mixer) -> bool:
        """Whether ``mixer`` has the same fields as when it was compared."""
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
    """How often torch wrote into a tensor in place; 0 for tensors of inference mode."""
    if not isinstance(part, Tensor):
        return 0
    with torch._C.DisableTorchFunction():  # what listens takes calls for the model's
        return 0 if part.is_inference() else part._version


def _is(one: Any, other: Any) -> bool:
    return one is other or (not isinstance(one, Tensor) and one == other)
