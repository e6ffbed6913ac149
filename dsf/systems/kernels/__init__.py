"""Compiled inner loops on plain arrays, by numba on a CPU and by Triton on CUDA.

The modules with loops import numba or triton, so they are imported only where they are used; this
package itself imports neither.
"""

from dsf.systems.kernels.availability import (
    applies,
    applies_on_cuda,
    found,
    why_off,
    why_off_on_cuda,
)

__all__ = [
    "applies",
    "applies_on_cuda",
    "found",
    "why_off",
    "why_off_on_cuda",
]
