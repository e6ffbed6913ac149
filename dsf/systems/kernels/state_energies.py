"""The energy that unit signals leave in the states, and what of it each response shows."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from dsf.runtime.threads import in_parallel, shares
from dsf.systems.kernels.compiling import kernel


def add_energies(
    decays: Float[Tensor, "*batch time state 1"],
    writes: Float[Tensor, "*batch times state input"],
    reads: Float[Tensor, "*batch times output state"],
    *,
    into: tuple[Float[Tensor, "*batch state state"], Float[Tensor, "*batch"]],
    before: bool,
) -> None:
    """Carry ``P <- decay P decay + B Bᵀ`` along the tokens and add up the traces of ``C P Cᵀ``.

    Args:
        writes, reads: with one token where they are the same for all.
        into: ``P``, and the sums, in double precision, of what earlier tokens have left.
        before: states are read before they decay.
    """
    gram, found = into

    def as_rows(part: Tensor) -> np.ndarray:
        whole = part.detach().expand(*found.shape, *part.shape[-3:])
        return whole.reshape(-1, *part.shape[-3:]).double().contiguous().numpy()

    arrays = [as_rows(part) for part in (decays, writes, reads)]
    arrays += [gram.view(-1, *gram.shape[-2:]).numpy(), found.view(-1).numpy()]
    in_parallel(lambda some: _add(*(part[some] for part in arrays), before), shares(found.numel()))


@kernel(reorders=True)
def _add(decays, writes, reads, gram, found, before):
    entries, steps, states, _ = decays.shape
    for e in range(entries):
        energies, total = gram[e], 0.0
        for t in range(steps):
            write = writes[e, min(t, writes.shape[1] - 1)]
            read = reads[e, min(t, reads.shape[1] - 1)]
            if before:
                total += _seen(read, energies)
            decay = decays[e, t, :, 0]
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
def _seen(read, energies):
    total = 0.0
    for p in range(read.shape[0]):
        for i in range(read.shape[1]):
            row = 0.0
            for j in range(read.shape[1]):
                row += energies[i, j] * read[p, j]
            total += read[p, i] * row
    return total
