"""How much of a map is off its diagonal: what tokens do to other tokens."""

from typing import TypeGuard

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate import Rows
from dsf.evaluate.compiled import stored_parts
from dsf.measures.fold import MapOrSystem, total
from dsf.runtime.argument_checks import checked
from dsf.systems.kernels import applies
from dsf.systems.system import System

TOKENS = 32
"""Tokens whose coefficients are formed at a time."""


@checked
def off_diagonal_energy(map_or_system: MapOrSystem) -> Shaped[Tensor, "*batch"]:
    """The sum of squared magnitudes of all weights between different tokens. At least 0.

    For a causal system with a real diagonal transition and fewer states than tokens a compiled loop
    computes it without a map, in time x state² steps, from the energy that unit signals leave in
    the state: the recurrence whose decays are the products of two decays.

    >>> off_diagonal_energy(torch.tensor([[5.0, 0.0], [3.0, 1.0]]))
    tensor(9.)
    """
    if _has_few_states(map_or_system):
        return _from_gramians(map_or_system)
    return total(map_or_system, _between_tokens)


def _between_tokens(rows: Rows) -> Tensor:
    return rows.weights.abs().square().where(rows.lag != 0, 0).sum(dim=(-2, -1))


def _has_few_states(source: MapOrSystem) -> TypeGuard[System]:
    if not isinstance(source, System) or (parts := stored_parts(source)) is None:
        return False
    work = source.steps * source.batch.numel() * source.state_size**2
    return (
        not (source.runs_backward or source.takes_real_part or source.dtype.is_complex)
        and 0 < source.state_size <= source.steps
        and applies(*parts, work=work)
    )


def _from_gramians(system: System) -> Shaped[Tensor, "*batch"]:
    """What the energy in the state, ``B_j B_jᴴ`` of all earlier tokens, leaves in each response."""
    from dsf.systems.kernels.state_energies import add_energies

    size, N = system.batch, system.state_size
    gram = torch.zeros(*size, N, N, dtype=torch.float64)
    found = torch.zeros(size, dtype=torch.float64)
    for start in range(0, system.steps, TOKENS):
        few = system.window(start, min(start + TOKENS, system.steps))
        decay = few.A @ torch.ones(*size, few.steps, N, 1, dtype=system.dtype)
        write, read = (torch.as_tensor(part).to(system.dtype) for part in (few.B, few.C))
        add_energies(decay, write, read, into=(gram, found), before=few.reads_before_update)
    return found.to(system.dtype)
