"""Keeps freed memory for the next tensors, where a run takes blocks of the same sizes again.

The allocator of glibc gives large blocks back to the system as soon as they are freed, and the
system zeroes every new one page by page, which takes long where a model makes large tensors in
every layer, as Mamba does.
"""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from dsf.runtime.threads import WhileAny

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Parameters of ``mallopt``, as its header names them."""
NEVER, LARGEST, USUAL = -1, 2**25, 2**16
"""No trimming; what glibc itself raises its threshold to at most; how many blocks it maps."""


@contextmanager
def _kept() -> Iterator[None]:
    glibc = _glibc()
    if glibc is None:
        yield
        return
    glibc.mallopt(MMAP_MAX, 0)
    glibc.mallopt(TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        glibc.mallopt(MMAP_MAX, USUAL)
        glibc.mallopt(MMAP_THRESHOLD, LARGEST)
        glibc.mallopt(TRIM_THRESHOLD, 2 * LARGEST)
        glibc.malloc_trim(0)


@cache
def _glibc() -> Any | None:
    """The C library; None for another one, or where the environment says how it allocates."""
    is_told = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    return None if is_told or platform.libc_ver()[0] != "glibc" else ctypes.CDLL(None)


REUSED_MEMORY = WhileAny(_kept)
"""Inside of this ``with`` block of any thread, freed memory stays with the process."""
