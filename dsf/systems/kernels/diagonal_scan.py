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
    turned: bool,
    at_rest: bool,
    into: tuple[Shaped[Tensor, "time entry"], Shaped[Tensor, " entry"]],
) -> None:
    """Write ``h_t = decay_t h_{t-1} + drive_t``; if ``turned``, ``decay_{t+1} h_{t+1} + drive_t``.

    In all arrays the numbers of a token are contiguous.

    Args:
        decays: of any precision.
        drives: of any precision.
        turned: run from the last token to the first.
        at_rest: the initial state is zero, and the first decay is not applied.
        into: the states, in the precision of ``drives``, and the running state, in double
            precision: the initial state before, the final state after; if ``turned`` the final
            state is ``decay_1 h_1``.
    """
    arrays = [part.detach().numpy() for part in (decays, drives, *into)]
    entries = drives.shape[-1]
    share = max(FEWEST, -(-entries // torch.get_num_threads()))

    def run(first: int) -> None:
        last = min(first + share, entries)
        _scan(*arrays[:3], arrays[3][first:last], first, turned, at_rest)

    in_parallel(run, range(0, entries, share))


@kernel()
def _scan(decays, drives, states, running, first, turned, at_rest):
    tokens, begin, width = len(drives), np.uint64(first), np.uint64(len(running))
    for k in range(tokens):
        now = np.uint64(tokens - 1 - k if turned else k)
        decays_state = not (at_rest and now == 0)
        if turned:
            for c in range(width):
                new = running[c] + drives[now, begin + c]
                states[now, begin + c] = new
                running[c] = decays[now, begin + c] * new if decays_state else new
        elif decays_state:
            for c in range(width):
                new = decays[now, begin + c] * running[c] + drives[now, begin + c]
                running[c] = new
                states[now, begin + c] = new
        else:
            for c in range(width):
                running[c] = drives[now, begin + c]
                states[now, begin + c] = running[c]
