"""Which maps compiled loops or kernels make the rows of."""

from collections.abc import Iterator

from jaxtyping import Shaped
from torch import Tensor

from dsf.coefficient import Coefficient, SampledWrite
from dsf.evaluate.cuda.rows import rows_on_cuda, writes_on_cuda
from dsf.evaluate.heads import heads_of
from dsf.evaluate.loops.diagonal_rows import diagonal_rows, is_diagonal
from dsf.evaluate.loops.head_rows import head_rows
from dsf.evaluate.place import Place
from dsf.kernels import applies
from dsf.system import System
from dsf.transition import Diagonal, SampledDiagonal, ScaledIdentity


def compiled_rows(
    system: System, borders: list[int], place: Place
) -> Iterator[Shaped[Tensor, "*batch rows columns"]] | None:
    """The rows between every two borders; None where the plain path has to make them."""
    if not compiles(system, borders[-1]):
        return None
    if system.device.type != "cpu":
        return rows_on_cuda(system, borders, place)
    heads = heads_of(system)
    if heads is not None:
        return head_rows(heads, borders, place)
    return diagonal_rows(system, borders, place)


def compiles(system: System, last: int) -> bool:
    """Whether compiled loops, or kernels, make the rows up to ``last`` of this system."""
    parts = stored_parts(system)
    work = system.batch.numel() * last * last * system.state_size // 2
    if parts is None or not (is_diagonal(system) or heads_of(system) is not None):
        return False
    if system.device.type != "cpu":
        return writes_on_cuda(system, parts, work=work)
    return applies(*parts, work=work)


def stored_parts(system: System) -> list[Tensor] | None:
    """All tensors of a diagonal system; None if it is of another kind."""
    if isinstance(system.A, SampledDiagonal):
        parts = [system.A.step, system.A.pole]
    elif isinstance(system.A, Diagonal | ScaledIdentity):
        parts = [system.A.decay]
    else:
        return None
    for part in (system.B, system.C, system.feedthrough):
        if isinstance(part, SampledWrite):
            parts += [part.step, part.write]
        elif isinstance(part, Coefficient):
            return None
        else:
            parts.append(part)
    return parts
