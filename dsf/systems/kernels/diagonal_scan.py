"""The recurrence of uncoupled states, one token after the other, on the CPU."""

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.runtime.threads import in_parallel
from dsf.systems.kernels.compiling import kernel

# Fewest entries for a thread: fewer contiguous numbers a token are read too slowly.
FEWEST = 1024


def scan_states(
    decays: Shaped[Tensor, "time entry"],
    drives: Shaped[Tensor, "time entry"],
    *,
    at_rest: bool,
    into: tuple[Shaped[Tensor, "time entry"], Shaped[Tensor, " entry"]],
) -> None:
    """Write ``h_t = decay_t h_{t-1} + drive_t``, where the numbers of a token are contiguous.

    ``into`` are the states, in the precision of ``drives``, and the running state, in double
    precision: the initial state before, the final state after. With ``at_rest`` the initial state
    is zero, and the first decay is not applied.
    """
    arrays = [part.detach().numpy() for part in (decays, drives, *into)]
    entries = drives.shape[-1]
    share = max(FEWEST, -(-entries // torch.get_num_threads()))

    def run(first: int) -> None:
        last = min(first + share, entries)
        _scan(*arrays[:3], arrays[3][first:last], first, at_rest)

    in_parallel(run, range(0, entries, share))


@kernel()
def _scan(decays, drives, states, running, first, at_rest):
    begin, width = np.uint64(first), np.uint64(len(running))
    for token in range(len(drives)):
        now = np.uint64(token)
        if at_rest and token == 0:
            for c in range(width):
                running[c] = drives[now, begin + c]
                states[now, begin + c] = running[c]
        else:
            for c in range(width):
                new = decays[now, begin + c] * running[c] + drives[now, begin + c]
                running[c] = new
                states[now, begin + c] = new
