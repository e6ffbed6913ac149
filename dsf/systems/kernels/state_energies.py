"""The energy that unit signals leave in the states, and what of it each response shows."""

from typing import no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.runtime.threads import in_parallel, shares
from dsf.systems.kernels.compiling import kernel


def add_energies(
    decays: Float[Tensor, "entry time state"],
    writes: Float[Tensor, "entry times state input"],
    reads: Float[Tensor, "entry times output state"],
    *,
    into: tuple[Float[Tensor, "entry state state"], Float[Tensor, " entry"]],
    before: bool,
) -> None:
    """Carry ``P <- decay P decay + B Bᵀ`` along the tokens and add up the traces of ``C P Cᵀ``.

    All arrays are in double precision.

    Args:
        writes, reads: with one token where they are the same for all.
        into: ``P``, and the sums, of what earlier tokens have left at each token.
        before: states are read before they decay.
    """
    parts = [part.detach().contiguous().numpy() for part in (decays, writes, reads)]
    gram, found = (part.numpy() for part in into)

    def run(part: slice) -> None:
        _add(*(each[part] for each in parts), gram[part], found[part], before)

    in_parallel(run, shares(len(found)))


def as_rows(part: Tensor, size: torch.Size) -> Float[Tensor, "entry time row column"]:
    """A coefficient of a batch ``size`` in double precision, with the entries on one axis."""
    return part.expand(*size, *part.shape[-3:]).flatten(0, -4).double()


@kernel(reorders=True)
@no_type_check
def _add(decays, writes, reads, gram, found, before):
    entries, steps, states = decays.shape
    for e in range(entries):
        energies, total = gram[e], 0.0
        for t in range(steps):
            write = writes[e, min(t, writes.shape[1] - 1)]
            read = reads[e, min(t, reads.shape[1] - 1)]
            if before:
                total += _seen(read, energies)
            decay = decays[e, t]
            for i in range(states):
                for j in range(states):
                    energies[i, j] *= decay[i] * decay[j]
            if not before:
                total += _seen(read, energies)
            for m in range(write.shape[1]):
                for i in range(states):
                    for j in range(states):
                        energies[i, j] += write[i, m] * write[j, m]
        found[e] += total


@kernel(reorders=True, inlined=True)
@no_type_check
def _seen(read, energies):
    total = 0.0
    for p in range(read.shape[0]):
        for i in range(read.shape[1]):
            row = 0.0
            for j in range(read.shape[1]):
                row += energies[i, j] * read[p, j]
            total += read[p, i] * row
    return total
