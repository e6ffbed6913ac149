"""The number types of a device: Apple's and some of Intel's cards lack double precision."""

from functools import cache

import torch

COMPLETE = ("cpu", "cuda", "meta")


def exact_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Double precision of the same kind, real or complex; ``dtype`` itself where there is none.

    >>> exact_dtype(torch.complex64, torch.device("cpu"))
    torch.complex128
    """
    return torch.promote_types(dtype, torch.float64) if has_double(device) else dtype


def has_double(device: torch.device) -> bool:
    """Whether the device computes in double precision, found out by a trial."""
    return device.type in COMPLETE or _computes_double(device)


@cache
def _computes_double(device: torch.device) -> bool:
    try:
        torch.zeros(1, dtype=torch.float64, device=device).add(1)
    except (TypeError, RuntimeError):
        return False
    return True
