"""Systems with one scalar decay a token as plain arrays, grouped by equal reads and writes.

An entry of their map is ``(read_i . write_j) step_j`` times the decays between, so the
products of reads and writes are computed once for all heads that share them.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.systems.coefficient import Coefficient, SampledWrite, dense_of
from dsf.systems.composite import Operator
from dsf.systems.system import System
from dsf.systems.transition import ScaledIdentity

TILE = 64


@dataclass(frozen=True)
class Heads:
    """A causal system with one decay a token and one port, its batch arranged as groups of heads.

    The heads of a group share ``read`` and ``write``. ``order`` and ``sizes`` say how the batch
    axes of the system were permuted; ``before`` is its ``reads_before_update``.
    """

    read: Float[Tensor, "group time state"]
    write: Float[Tensor, "group time state"]
    decay: Float[Tensor, "group head time"]
    step: Float[Tensor, "group head time"]
    feedthrough: Float[Tensor, "group head time"]
    before: bool
    order: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def steps(self) -> int:
        return self.read.shape[-2]

    @property
    def tiles(self) -> int:
        return -(-self.steps // TILE)

    def in_batch(self, part: Tensor) -> Tensor:
        """``part`` with its axes ``group head`` replaced by the batch axes of the system."""
        apart = part.reshape((*self.sizes, *part.shape[2:]))
        back = [self.order.index(axis) for axis in range(len(self.order))]
        return apart.permute((*back, *range(len(back), apart.ndim)))


def heads_of(system: Operator) -> Heads | None:
    if not isinstance(system, System) or not isinstance(system.A, ScaledIdentity):
        return None
    if system.runs_backward or system.input_size != 1 or system.output_size != 1:
        return None
    if system.dtype.is_complex or isinstance(system.C, Coefficient) or system.state_size == 0:
        return None
    if isinstance(system.B, SampledWrite):
        write, step = system.B.write, system.B.step
    elif isinstance(system.B, Tensor):
        write, step = system.B.squeeze(-1), torch.ones_like(system.A.decay[..., :1])
    else:
        return None
    read, feedthrough = system.C.squeeze(-2), dense_of(system.feedthrough)[..., 0, 0]
    parts = (read, write, system.A.decay, step, feedthrough)
    if len({part.dtype for part in parts}) > 1:
        return None
    return _grouped(system, *parts)


def _grouped(
    system: System, read: Tensor, write: Tensor, decay: Tensor, step: Tensor, feedthrough: Tensor
) -> Heads:
    shared = [
        axis
        for axis, size in enumerate(system.batch)
        if size == 1 or read.stride(axis) == write.stride(axis) == 0
    ]
    apart = [axis for axis in range(len(system.batch)) if axis not in shared]
    order = (*apart, *shared)
    groups = 1
    for axis in apart:
        groups *= system.batch[axis]

    def by_group(vectors: Tensor) -> Tensor:
        for axis in shared:
            vectors = vectors.narrow(axis, 0, 1)
        return vectors.permute(*order, -2, -1).reshape(groups, *vectors.shape[-2:])

    def by_head(numbers: Tensor) -> Tensor:
        spread = numbers.expand(*system.batch, system.steps)
        return spread.permute(*order, -1).reshape(groups, -1, system.steps)

    return Heads(
        by_group(read),
        by_group(write),
        by_head(decay).contiguous(),
        by_head(step).contiguous(),
        by_head(feedthrough),
        before=system.reads_before_update,
        order=order,
        sizes=tuple(system.batch[axis] for axis in order),
    )
