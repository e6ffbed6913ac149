"""Systems that a kernel for CUDA evaluates, and maps that one writes, where one applies.

Not yet behind ``respond`` and ``attention_map``: they ran in the interpreter only, on no device.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.coefficient import Coefficient, dense_of
from dsf.evaluate.border import at_start
from dsf.evaluate.by_loops import stored_parts
from dsf.evaluate.diagonal_rows import is_diagonal
from dsf.evaluate.heads import heads_of
from dsf.evaluate.memories import Bare, bare_parts
from dsf.evaluate.place import Place, flat
from dsf.kernels import applies_on_cuda
from dsf.system import System
from dsf.transition import ScaledIdentity

MOST_STATES = 256


def recalled_on_cuda(system: System, signal: Tensor) -> tuple[Tensor, Tensor] | None:
    """The response of a forward system and the state it leaves; None where no kernel applies."""
    if system.input_size * system.output_size != 1 or not 0 < system.state_size <= MOST_STATES:
        return None
    parts, entering, D = bare_parts(system), at_start(system, signal), system.feedthrough
    if parts is None or isinstance(D, Coefficient) or not signal.numel():
        return None
    tensors = [part for part in parts if part is not None]
    if not applies_on_cuda(*tensors, D, signal, entering):
        return None
    if parts.left is not None and not torch.equal(-parts.left, parts.write):
        return None
    return _recalled(system, parts, D[..., 0, 0], signal.squeeze(-2), entering)


def _recalled(
    system: System, parts: Bare, D: Tensor, signal: Tensor, entering: Tensor
) -> tuple[Tensor, Tensor]:
    from dsf.kernels.cuda.memories import recall

    batch, heads = system.batch, system.batch.numel()

    def by_head(part: Tensor, own: int) -> Tensor:
        tail = part.shape[part.ndim - own :]
        return part.expand(*batch, *tail).reshape(heads, *tail)

    scalar = parts.decay.ndim < parts.write.ndim
    decay = parts.decay.unsqueeze(-1) if scalar else parts.decay
    look = None if parts.look is None else by_head(parts.look, 2)
    response, leaving = recall(
        by_head(decay, 2),
        by_head(parts.gain, 1),
        by_head(parts.write, 2),
        by_head(parts.read, 2),
        look,
        by_head(signal, 2),
        signal.new_zeros(heads),
        by_head(entering, 2),
        before=system.reads_before_update,
    )
    response = response.view(signal.shape) + D.unsqueeze(-1) * signal
    return response.unsqueeze(-2), leaving.view(entering.shape)


def writes_on_cuda(system: System) -> bool:
    """Whether a kernel for CUDA writes the map of this system."""
    parts = stored_parts(system)
    known = is_diagonal(system) or heads_of(system) is not None
    few = 0 < system.state_size <= MOST_STATES and system.batch.numel() > 0
    return parts is not None and known and few and applies_on_cuda(*parts)


def rows_on_cuda(
    system: System, borders: list[int], place: Place
) -> Iterator[Shaped[Tensor, "*batch rows columns"]]:
    """The rows between every two borders, written into what ``place`` gives.

    The decays of a diagonal are written out, with their products up to the borders of tiles.
    """
    from dsf.kernels.cuda.tiles import Borders, write_map

    heads, steps = system.batch.numel(), system.steps
    decay = (
        system.A.decay.unsqueeze(-1) if isinstance(system.A, ScaledIdentity) else _diagonal(system)
    )
    decay = decay.reshape(heads, steps, -1).contiguous()
    write = dense_of(system.B).squeeze(-1).reshape(heads, steps, -1)
    read = dense_of(system.C).squeeze(-2).reshape(heads, steps, -1)
    D = dense_of(system.feedthrough)[..., 0, 0].expand(*system.batch, steps)
    gain, before = decay.new_ones(1, steps).expand(heads, steps), system.reads_before_update
    kept = Borders(decay, before=before)
    for start, stop in pairwise(borders):
        buffer, top = place.take(write, (*system.batch, stop - start, steps), first=start)
        span = (start, stop, top)
        write_map(read, write, decay, gain, kept, flat(buffer), rows=span, before=before)
        rows = buffer[..., top : top + stop - start, :]
        rows.diagonal(start, -2, -1).add_(D[..., start:stop])
        yield rows


def _diagonal(system: System) -> Tensor:
    decay = system.A.diagonal()
    if decay is None:
        raise TypeError(
            f"rows_on_cuda: needs a scaled identity or a diagonal, but A is "
            f"{type(system.A).__name__}. Ask writes_on_cuda first."
        )
    return decay
