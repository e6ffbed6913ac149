"""Building blocks of matrix-valued memories: sums over the past, delta rules, slots."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Inexact, Shaped
from torch import Tensor

from dsf.systems.composite import PANEL, SystemSum
from dsf.systems.system import System
from dsf.systems.transition import (
    Diagonal,
    DiagonalPlusLowRank,
    ScaledIdentity,
    Transition,
    continued,
)

Vectors = Shaped[Tensor, "*batch time state"]


def accumulator(write: Vectors, read: Vectors, *, causal: bool) -> System | SystemSum:
    """Weights ``read_i.write_j``: for j <= i if ``causal``, for all pairs otherwise.

    All pairs are the sum of a forward system and one that runs backward and reads before the
    update, so that the diagonal is counted once.
    """
    *batch, steps, states = write.shape
    kept = torch.ones((), dtype=write.dtype, device=write.device).expand(*batch, steps)
    A = ScaledIdentity(kept, states)
    forward = System.from_write_and_read(A, write, read)
    if causal:
        return forward
    backward = System(A, forward.B, forward.C, reads_before_update=True, runs_backward=True)
    return SystemSum((forward, backward))


def total_in_reach(part: Vectors, *, causal: bool) -> Vectors:
    """The sum over the keys that a query reads: the past and itself, or the whole sequence."""
    if causal:
        return part.cumsum(dim=-2)
    return part.sum(dim=-2, keepdim=True).expand_as(part)


def delta_rule(
    *,
    decay: Inexact[Tensor, "*batch time key"],
    write: Inexact[Tensor, "*batch time key rank"],
    removal: Inexact[Tensor, "*batch time key rank"],
    read: Inexact[Tensor, "*batch time key"],
    initial: Inexact[Tensor, "*batch key channel"] | None = None,
) -> System:
    """``A_t = (I - write_t removal_tᵀ) diag(decay_t)``, ``B_t = write_t``, ``C_t = read_t``.

    The decay is applied before the memory is read at ``removal``; where all coordinates share a
    decay the order makes no difference. Every column of ``write`` is an input port. A shared decay
    costs less when it is expanded along ``key`` rather than copied.
    """
    A = DiagonalPlusLowRank(decay=decay, left=-write, right=decay.unsqueeze(-1) * removal)
    return System(A, B=write, C=read.unsqueeze(-2), initial=initial)


Reading = Callable[[Tensor, int, int], Tensor]


def read_from(
    A: Transition, write: Vectors, kept: Float[Tensor, "*batch time key"], read: Reading
) -> Float[Tensor, "*batch time read"]:
    """``read`` applied to ``S_t = A_t S_{t-1} + write_t kept_tᵀ``, a few tokens at a time.

    ``read(memories, start, stop)`` gets the memories of the tokens ``start`` to ``stop - 1``, of
    shape ``*batch time state key``. They are stored for all tokens only if gradients are needed.
    """
    found, entering = [], None
    for start in range(0, A.steps, PANEL):
        stop = min(start + PANEL, A.steps)
        new = write[..., start:stop, :, None] * kept[..., start:stop, None, :]
        memories, entering = continued(A.window(start, stop), new, entering)
        found.append(read(memories, start, stop))
    return torch.cat(found, dim=-2)


def slot_system(
    *,
    decay: Float[Tensor, "*batch time slot"],
    write: Float[Tensor, "*batch time slot"],
    key: Float[Tensor, "*batch time key"],
    query: Float[Tensor, "*batch time key"],
) -> System:
    """``A_t = diag(decay_t)``, ``B_t = write_t``, ``C_t = softmax over the slots of K_t q_t``.

    The keys K_t of the slots follow the same recurrence, with keys in place of values.
    """
    A = Diagonal(decay)

    def scores(keys: Tensor, start: int, stop: int) -> Tensor:
        return (keys @ query[..., start:stop, :, None]).squeeze(-1)

    read = read_from(A, write, key, scores).softmax(dim=-1)
    return System.from_write_and_read(A, write, read)
