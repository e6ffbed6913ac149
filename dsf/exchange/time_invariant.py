"""Converts time-invariant systems to and from SciPy and python-control."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import signal as scipy_signal

from dsf.evaluate.invariant import varying
from dsf.system import System
from dsf.transition import Dense

if TYPE_CHECKING:
    from numpy.typing import NDArray

Four = tuple["NDArray[Any]", "NDArray[Any]", "NDArray[Any]", "NDArray[Any]"]


def state_space(system: System) -> Four:
    """A, B, C, D of a time-invariant system in the control convention, as arrays.

    In control the output reads the state before the update, ``x_{t+1} = A x_t + B u_t``,
    ``y_t = C x_t + D u_t``. A system that reads after the update gets ``C A`` for C and ``D + C B``
    for D, which gives the same response at every token.

    Raises:
        ValueError: if the system changes with time, has batch axes, runs backward, or takes the
            real part of a complex state.
    """
    name = varying(system)
    if name is not None:
        raise ValueError(
            f"state_space: needs a time-invariant system, since control libraries have no others, "
            f"but {name} changes with time."
        )
    if system.batch or system.runs_backward or system.takes_real_part:
        raise ValueError(
            "state_space: needs one causal system without batch axes whose output is not the real "
            "part of a complex state; pick one with dsf.algebra.select, reverse time with "
            "dsf.algebra.reverse, or use dsf.algebra.with_conjugates first."
        )
    token = system.window(0, 1)
    A = token.A.dense()[0]
    B, C, D = (torch.as_tensor(part)[0] for part in (token.B, token.C, token.feedthrough))
    if not system.reads_before_update:
        C, D = C @ A, D + C @ B
    return A.numpy(force=True), B.numpy(force=True), C.numpy(force=True), D.numpy(force=True)


def from_state_space(A: Any, B: Any, C: Any, D: Any, *, steps: int) -> System:
    """A system of ``steps`` tokens from the four matrices of the control convention.

    Raises:
        ValueError: if ``steps`` is below 1.
    """
    if steps < 1:
        raise ValueError(f"from_state_space: 'steps' must be at least 1, but it is {steps}.")
    parts = [torch.from_numpy(np.array(part, ndmin=2)) for part in (A, B, C, D)]
    A_, B_, C_, D_ = (part.expand(steps, *part.shape) for part in parts)
    return System(Dense(A_), B_, C_, D_, reads_before_update=True)


def to_scipy(system: System) -> Any:
    """The system as ``scipy.signal.StateSpace`` with a time step of one token."""
    return scipy_signal.StateSpace(*state_space(system), dt=True)


def from_scipy(system: Any, *, steps: int) -> System:
    """A system of ``steps`` tokens from a discrete-time ``scipy.signal.StateSpace``.

    Raises:
        ValueError: if the system is continuous in time.
    """
    if system.dt is None:
        raise ValueError(
            "from_scipy: needs a discrete-time system, but this one is continuous. Discretise it "
            "first with scipy.signal.cont2discrete."
        )
    return from_state_space(system.A, system.B, system.C, system.D, steps=steps)


def to_control(system: System) -> Any:
    """The system as ``control.StateSpace`` with a time step of one token.

    Raises:
        ModuleNotFoundError: if python-control is not installed.
    """
    try:
        import control
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "to_control: needs python-control, which is not installed: pip install control."
        ) from None
    return control.StateSpace(*state_space(system), True)


def from_control(system: Any, *, steps: int) -> System:
    """A system of ``steps`` tokens from a discrete-time ``control.StateSpace``.

    Raises:
        ValueError: if the system is continuous in time.
    """
    if not system.isdtime(strict=True):
        raise ValueError(
            "from_control: needs a discrete-time system, but this one is continuous. Discretise it "
            "first with control.sample_system."
        )
    return from_state_space(system.A, system.B, system.C, system.D, steps=steps)
