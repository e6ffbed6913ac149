"""Results of the trials that CUDA kernels must pass on a device before they are used.

A kernel is tested in every process before its first use, and for every size it is compiled for, so
that an untested device, driver or compiler cannot change a result. A kernel that fails is off.
"""

import warnings
from collections.abc import Callable, Hashable

import torch

from dsf.systems.kernels.availability import why_off_on_cuda

MEMORIES, DELTA_RULES, SELECTIVE, MAPS = NAMES = (
    "matrix memories",
    "delta rules",
    "selective scan",
    "maps",
)
TOLERANCE = 1e-5

_passed: set[tuple[str, torch.device, Hashable]] = set()
_fault: dict[tuple[str, torch.device], str] = {}


def has_passed(name: str, device: torch.device, kind: Hashable, trial: Callable[[], float]) -> bool:
    """Whether the kernel may run; runs its ``trial`` if ``kind`` was not tried in this process.

    ``trial`` returns the error relative to the reference. If it exceeds ``TOLERANCE`` or the trial
    raises, a warning names the kernel, and it is off on this device until the process ends.
    """
    if (name, device) in _fault:
        return False
    if (name, device, kind) in _passed:
        return True
    try:
        error = trial()
    except Exception as fault:  # whatever it is, torch operations are used instead
        found = " ".join(f"{type(fault).__name__}: {fault}".split())
        return _switch_off(name, device, found[:300])
    if not error <= TOLERANCE:
        return _switch_off(name, device, f"its relative error is {error:.0e}")
    _passed.add((name, device, kind))
    return True


def _switch_off(name: str, device: torch.device, why: str) -> bool:
    _fault[name, device] = why
    warnings.warn(
        f"dsf: the kernel for {name} failed its trial on {device} and is off in this process; "
        f"dsf uses torch operations instead, with the same results. The reason: {why}",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


def trial_result(name: str, device: torch.device) -> str:
    """``active``, ``off`` with the reason, or ``not tried``."""
    why = why_off_on_cuda() or _fault.get((name, device))
    if why:
        return f"off: {why}"
    tried = any(known[:2] == (name, device) for known in _passed)
    return "active" if tried else "not tried"


def forget_trials() -> None:
    """Forget all results, so that every kernel is tried again."""
    _passed.clear()
    _fault.clear()
