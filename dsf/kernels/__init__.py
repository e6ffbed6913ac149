"""Compiled inner loops: bare arrays in, bare arrays out, no idea of systems.

The modules with loops import numba, so they are imported where they are used; this face is light.
"""

from dsf.kernels.availability import (
    applies,
    applies_on_cuda,
    asks_for_fla,
    found,
    why_off,
    why_off_on_cuda,
)
from dsf.kernels.parallel import in_parallel

__all__ = [
    "applies",
    "applies_on_cuda",
    "asks_for_fla",
    "found",
    "in_parallel",
    "why_off",
    "why_off_on_cuda",
]
