"""How much of a map is off its diagonal: what tokens do to other tokens."""

from typing import TypeGuard

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate import Rows
from dsf.evaluate.cache import kept_rows
from dsf.measures.fold import MapOrSystem, total
from dsf.runtime.argument_checks import checked
from dsf.systems.kernels import availability
from dsf.systems.system import System
from dsf.systems.transition import Diagonal, SampledDiagonal, ScaledIdentity

TOKENS = 32
"""Tokens whose coefficients are formed at a time."""


@checked
def off_diagonal_energy(map_or_system: MapOrSystem) -> Shaped[Tensor, "*batch"]:
    """The sum of squared magnitudes of all weights between different tokens. At least 0.

    For a causal system with a diagonal transition and fewer states than tokens it is computed
    without a map, in time x state² steps, from the energy that unit signals leave in the state:
    the recurrence whose decays are the products of two decays.

    >>> off_diagonal_energy(torch.tensor([[5.0, 0.0], [3.0, 1.0]]))
    tensor(9.)
    """
    if _has_few_states(map_or_system):
        return _from_gramians(map_or_system)
    return total(map_or_system, _between_tokens)


def _between_tokens(rows: Rows) -> Tensor:
    return rows.weights.abs().square().where(rows.lag != 0, 0).sum(dim=(-2, -1))


def _has_few_states(source: MapOrSystem) -> TypeGuard[System]:
    return (
        isinstance(source, System)
        and isinstance(source.A, Diagonal | SampledDiagonal | ScaledIdentity)
        and not (source.runs_backward or source.takes_real_part)
        and 0 < source.state_size <= source.steps
        and kept_rows(source) is None
    )


def _from_gramians(system: System) -> Shaped[Tensor, "*batch"]:
    """What the energy in the state, ``B_j B_jᴴ`` of all earlier tokens, leaves in each response."""
    size, N = system.batch, system.state_size
    gram = torch.zeros(*size, N, N, dtype=system.dtype, device=system.device)
    found = torch.zeros(size, dtype=gram.real.dtype, device=system.device)
    is_compiled = False
    for start in range(0, system.steps, TOKENS):
        few = system.window(start, min(start + TOKENS, system.steps))
        decay = few.A @ torch.ones(*size, few.steps, N, 1, dtype=system.dtype, device=system.device)
        write, read = (torch.as_tensor(part).to(system.dtype) for part in (few.B, few.C))
        real, work = not decay.is_complex(), system.steps * gram.numel()
        if start == 0 and real and availability.applies(decay, write, read, work=work):
            is_compiled, gram, found = True, gram.double(), found.double()
        if is_compiled:
            from dsf.systems.kernels.state_energies import add_energies

            before = few.reads_before_update
            add_energies(decay, write, read, into=(gram, found), before=before)
        else:
            _add(few, decay, write, read, into=(gram, found))
    return found.to(system.dtype.to_real())


def _add(
    few: System, decay: Tensor, write: Tensor, read: Tensor, *, into: tuple[Tensor, Tensor]
) -> None:
    """Carry the energy in the state along a window, and add up what its responses show of it."""
    gram, found = into
    for t in range(few.steps):
        now = read[..., min(t, read.shape[-3] - 1), :, :]
        if few.reads_before_update:
            found += _seen(now, gram)
        gram.mul_(decay[..., t, :, :]).mul_(decay[..., t, :, :].mH)
        if not few.reads_before_update:
            found += _seen(now, gram)
        then = write[..., min(t, write.shape[-3] - 1), :, :]
        gram += then @ then.mH


def _seen(read: Tensor, gram: Tensor) -> Tensor:
    return ((read @ gram) * read.conj()).sum(dim=(-2, -1)).real
