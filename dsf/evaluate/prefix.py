"""The parallel-scan evaluator: a prefix scan over the whole sequence."""

from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.arguments import state_at_start, with_checked_arguments
from dsf.evaluate.equations import advance
from dsf.evaluate.windows import cut
from dsf.systems.solve import doubling
from dsf.systems.system import System


def scan(
    system: System, signal: Shaped[Tensor, "*batch time input channel"]
) -> Shaped[Tensor, "*batch time output channel"]:
    """The response by a parallel prefix scan: a logarithmic number of large operations.

    Stores all coefficients and all states at once; transitions become dense where their structure
    is not closed under products: ``time x state x state`` numbers. Meant for highly parallel
    devices and short sequences.
    """
    return with_checked_arguments(_run, system, signal)


def _run(system: System, signal: Tensor) -> Tensor:
    whole = cut(system, 0, system.steps, dtype=signal.dtype)
    return advance(whole, signal, state_at_start(system, signal), solve=doubling)[0]
