"""A parallel prefix scan: all states in a logarithmic number of passes."""

from jaxtyping import Shaped
from torch import Tensor

from dsf.runtime.number_types import exact_dtype
from dsf.systems.solve.initial_state import with_initial_state
from dsf.systems.transition import Transition
from dsf.systems.transition.timeline import delay


def doubling(
    A: Transition,
    drive: Shaped[Tensor, "*batch time state channel"],
    entering: Shaped[Tensor, "*batch state channel"] | None = None,
) -> tuple[
    Shaped[Tensor, "*batch time state channel"],
    Shaped[Tensor, "*batch state channel"],
]:
    """Solve ``h_t = A_t h_{t-1} + drive_t`` as a prefix scan.

    After the pass with a given lag, ``state[t]`` is the state that the last ``2 * lag`` tokens
    alone would leave, and ``jump[t]`` is the product of their transitions.

    Returns:
        All states, and the last one.
    """
    state, lag = with_initial_state(A, drive, entering), 1
    # In double precision, so that its products are not rounded again in every pass.
    jump = A.to(dtype=exact_dtype(drive.dtype.to_real(), drive.device))
    while lag < A.steps:
        alike = jump.to(dtype=drive.dtype.to_real())
        state = state + alike @ delay(state, lag, axis=-3)
        jump = jump.compose(jump.delayed(lag))
        lag *= 2
    return state, state[..., -1, :, :]
