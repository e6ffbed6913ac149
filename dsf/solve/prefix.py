"""A prefix scan: every state in a logarithmic number of passes."""

from jaxtyping import Shaped
from torch import Tensor

from dsf.transition import Transition
from dsf.transition.timeline import delay


def doubling(
    A: Transition, drive: Shaped[Tensor, "*batch time state channel"]
) -> Shaped[Tensor, "*batch time state channel"]:
    """Solve ``h_t = A_t h_{t-1} + drive_t`` as a prefix scan.

    After the pass with a given lag, ``state[t]`` holds what the last ``2 * lag`` tokens wrote,
    and ``jump[t]`` carries a state across them.
    """
    jump, state, lag = A, drive, 1
    while lag < A.steps:
        state = state + jump @ delay(state, lag, axis=-3)
        jump = jump.compose(jump.delayed(lag))
        lag *= 2
    return state
