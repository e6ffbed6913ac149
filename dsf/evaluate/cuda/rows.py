"""Rows of maps by a CUDA kernel, for systems where it applies and has passed its trial."""

from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.cuda.responses import MOST_STATES
from dsf.evaluate.cuda.trials import rows_error
from dsf.evaluate.output_buffers import FreshRows, RowBuffer, flat
from dsf.systems.coefficient import dense_of
from dsf.systems.kernels import applies_on_cuda
from dsf.systems.kernels.availability import WORTH
from dsf.systems.kernels.cuda.trial_results import MAPS, has_passed
from dsf.systems.system import System
from dsf.systems.transition import ScaledIdentity


def writes_on_cuda(system: System, parts: list[Tensor], *, work: int) -> bool:
    """Whether a kernel for CUDA may write the map of a diagonal system of these ``parts``."""
    few = 0 < system.state_size <= MOST_STATES and system.batch.numel() > 0
    if not few or work < WORTH or not applies_on_cuda(*parts):
        return False
    structure = "scalar" if isinstance(system.A, ScaledIdentity) else "diagonal"
    states, before = system.state_size, system.reads_before_update
    return map_has_passed(system.device, structure, states, before=before)


def map_has_passed(device: torch.device, structure: str, states: int, *, before: bool) -> bool:
    """Whether the kernel for maps may run."""
    trial = partial(rows_error, _fresh_rows, device, structure, states=states, before=before)
    return has_passed(MAPS, device, (structure, states, before), trial)


def _fresh_rows(system: System, boundaries: list[int]) -> Iterator[Tensor]:
    return rows_on_cuda(system, boundaries, FreshRows())


def rows_on_cuda(
    system: System, boundaries: list[int], output: RowBuffer
) -> Iterator[Shaped[Tensor, "*batch rows columns"]]:
    """The rows between consecutive boundaries, written into the memory that ``output`` provides.

    The decays of a diagonal are written out, with their products up to the edges of tiles.
    """
    from dsf.systems.kernels.cuda.tiles import Borders, write_map

    decay, before = _by_head(system, _decays(system)).contiguous(), system.reads_before_update
    write = _by_head(system, dense_of(system.B).squeeze(-1))
    read = _by_head(system, dense_of(system.C).squeeze(-2))
    D = dense_of(system.feedthrough)[..., 0, 0].expand(*system.batch, system.steps)
    gain = decay.new_ones(1, system.steps).expand(system.batch.numel(), -1)
    products = Borders(decay, before=before)
    for start, stop in pairwise(boundaries):
        shape = (*system.batch, stop - start, system.steps)
        buffer, top = output.take(write, shape, first=start)
        span = (start, stop, top)
        with torch.cuda.device_of(buffer):
            write_map(read, write, decay, gain, products, flat(buffer), rows=span, before=before)
        rows = buffer[..., top : top + stop - start, :]
        rows.diagonal(start, -2, -1).add_(D[..., start:stop])
        yield rows


def _decays(system: System) -> Shaped[Tensor, "*batch time decays"]:
    if isinstance(system.A, ScaledIdentity):
        return system.A.decay.unsqueeze(-1)
    decay = system.A.diagonal()
    if decay is None:
        raise TypeError(
            f"rows_on_cuda: needs a scaled identity or a diagonal, but A is "
            f"{type(system.A).__name__}. Ask writes_on_cuda first."
        )
    return decay


def _by_head(system: System, part: Tensor) -> Shaped[Tensor, "head time state"]:
    """The batch axes flattened to one; parts that all heads share are stored once."""
    return part.expand(*system.batch, *part.shape[-2:]).reshape(-1, *part.shape[-2:])
