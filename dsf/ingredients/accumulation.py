"""Systems that only add up: linear attention, over the past or over the whole sequence."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.composite import SystemSum
from dsf.system import System
from dsf.transition import ScaledIdentity


def accumulator(
    write: Shaped[Tensor, "*batch time state"],
    read: Shaped[Tensor, "*batch time state"],
    *,
    causal: bool,
) -> System | SystemSum:
    """Weights ``read_i.write_j``: for j <= i if ``causal``, for all pairs otherwise.

    All pairs are a forward system and one that runs backward and reads before it updates, so that
    the diagonal is counted once.
    """
    *batch, steps, states = write.shape
    kept = torch.ones((), dtype=write.dtype, device=write.device).expand(*batch, steps)
    A = ScaledIdentity(kept, states)
    forward = System.from_write_and_read(A, write, read)
    if causal:
        return forward
    backward = System(A, forward.B, forward.C, reads_before_update=True, runs_backward=True)
    return SystemSum((forward, backward))


def total_in_reach(
    part: Shaped[Tensor, "*batch time state"], *, causal: bool
) -> Shaped[Tensor, "*batch time state"]:
    """The sum over the tokens that a token reads: the past and itself, or the whole sequence."""
    if causal:
        return part.cumsum(dim=-2)
    return part.sum(dim=-2, keepdim=True).expand_as(part)
