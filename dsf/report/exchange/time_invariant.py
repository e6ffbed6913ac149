"""Converts time-invariant systems to and from SciPy and python-control."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import signal as scipy_signal

from dsf.evaluate.invariant import varying
from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import at_least, of_kind
from dsf.systems.system import System
from dsf.systems.transition import Dense

if TYPE_CHECKING:
    from numpy.typing import NDArray

Four = tuple["NDArray[Any]", "NDArray[Any]", "NDArray[Any]", "NDArray[Any]"]


@checked
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
            "part of a complex state; pick one with dsf.systems.algebra.select, reverse time with "
            "dsf.systems.algebra.reverse, or use dsf.systems.algebra.with_conjugates first."
        )
    token = system.window(0, 1)
    A = token.A.dense()[0]
    B, C, D = (torch.as_tensor(part)[0] for part in (token.B, token.C, token.feedthrough))
    if not system.reads_before_update:
        C, D = C @ A, D + C @ B
    return A.numpy(force=True), B.numpy(force=True), C.numpy(force=True), D.numpy(force=True)


@checked
def from_state_space(A: Any, B: Any, C: Any, D: Any, *, steps: int) -> System:
    """A system of ``steps`` tokens from the four matrices of the control convention.

    Raises:
        ValueError: if ``steps`` is below 1.
    """
    at_least(1, "from_state_space", "steps", steps)
    given = {"A": A, "B": B, "C": C, "D": D}
    parts = [torch.from_numpy(_matrix(name, part)) for name, part in given.items()]
    A_, B_, C_, D_ = (part.expand(steps, *part.shape) for part in parts)
    return System(Dense(A_), B_, C_, D_, reads_before_update=True)


def _matrix(name: str, part: Any) -> "NDArray[Any]":
    """Return one of the four matrices as an array.

    Raises:
        TypeError: if it is not a matrix of numbers.
    """
    found = np.array(part, ndmin=2)
    if found.dtype.kind not in "fciu" or found.ndim > 2:
        raise TypeError(
            f"from_state_space: '{name}' must be a matrix of numbers, such as an array of NumPy, "
            f"but it is {type(part).__name__} of {found.dtype} with {found.ndim} axes."
        )
    return found


@checked
def to_scipy(system: System) -> Any:
    """The system as ``scipy.signal.StateSpace`` with a time step of one token."""
    return scipy_signal.StateSpace(*state_space(system), dt=True)


@checked
def from_scipy(system: Any, *, steps: int) -> System:
    """A system of ``steps`` tokens from a discrete-time ``scipy.signal.StateSpace``.

    Raises:
        ValueError: if the system is continuous in time.
    """
    of_kind("from_scipy", "system", system, scipy_signal.StateSpace, "a scipy.signal.StateSpace")
    if system.dt is None:
        raise ValueError(
            "from_scipy: needs a discrete-time system, but this one is continuous. Discretise it "
            "first with scipy.signal.cont2discrete."
        )
    return from_state_space(system.A, system.B, system.C, system.D, steps=steps)


@checked
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


@checked
def from_control(system: Any, *, steps: int) -> System:
    """A system of ``steps`` tokens from a discrete-time ``control.StateSpace``.

    Raises:
        ValueError: if the system is continuous in time.
    """
    of_kind(
        "from_control",
        "system",
        system,
        lambda given: all(hasattr(given, name) for name in ("isdtime", *"ABCD")),
        "a control.StateSpace",
    )
    if not system.isdtime(strict=True):
        raise ValueError(
            "from_control: needs a discrete-time system, but this one is continuous. Discretise it "
            "first with control.sample_system."
        )
    return from_state_space(system.A, system.B, system.C, system.D, steps=steps)
