"""Compiled inner loops: bare arrays in, bare arrays out, no idea of systems.

The modules with loops import numba, so they are imported where they are used; this face is light.
"""

from dsf.kernels.availability import applies, found, why_off
from dsf.kernels.spreading import in_parallel

__all__ = ["applies", "found", "in_parallel", "why_off"]
