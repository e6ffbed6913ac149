"""The system of the paper: one state for all channels, driven by the layer's own input."""

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from dsf.systems.algebra import direct_sum, select
from dsf.systems.coefficient import dense_of
from dsf.systems.composite import Operator
from dsf.systems.system import System


@dataclass(frozen=True, eq=False)
class Form:
    """One architecture as a system, and what its own formula makes of the same input.

    Attributes:
        system: ports are the channels of the input and of the output.
    """

    name: str
    system: System
    u: Float[Tensor, "time input"]
    direct: Float[Tensor, "time output"]


def one_system(operator: Operator) -> System:
    """The operator where it is one causal system, as those of this paper are.

    Raises:
        TypeError: if it is a sum of systems or an explicit map.
    """
    if not isinstance(operator, System):
        raise TypeError(
            f"one_system: needs a single system, but a {type(operator).__name__} came. "
            f"Mixers give one where they are causal."
        )
    return operator


def stacked(
    system: System, *, channels: int, projection: Float[Tensor, "channel input"] | None = None
) -> System:
    """B = (I kron b) W, C = I kron c, A = I kron A: the channels of every head get states.

    Args:
        system: one head, or one channel, per entry of its one batch axis.
        channels: value channels that share one entry.
        projection: W, from the layer's input to all channels, head after head.
    """
    (entries,) = system.batch
    copies = [select(system, entry) for entry in range(entries) for _ in range(channels)]
    joint = one_system(direct_sum(*copies))
    if projection is None:
        return joint
    return replace(
        joint,
        B=dense_of(joint.B) @ projection.to(joint.B.dtype),
        D=dense_of(joint.feedthrough) @ projection.to(joint.feedthrough.dtype),
    )
