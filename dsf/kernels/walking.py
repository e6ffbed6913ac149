"""States that do not meet, walked through token after token with nothing written out but them."""

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.kernels.compiling import kernel
from dsf.kernels.spreading import in_parallel

# Entries worth a thread: a token of fewer is too short a run of numbers.
FEWEST = 1024


def walk(
    decays: Shaped[Tensor, "time entry"],
    drives: Shaped[Tensor, "time entry"],
    *,
    turned: bool,
    into: Shaped[Tensor, "time entry"],
) -> None:
    """Write ``h_t = decay_t h_{t-1} + drive_t``, turned ``decay_{t+1} h_{t+1} + drive_t``.

    The running states are in double precision. All parts are of one number type and lie in memory
    token after token.
    """
    arrays = [part.detach().numpy() for part in (decays, drives, into)]
    entries = drives.shape[-1]
    share = max(FEWEST, -(-entries // torch.get_num_threads()))

    def run(first: int) -> None:
        last = min(first + share, entries)
        running = np.zeros(last - first, np.promote_types(arrays[2].dtype, np.float64))
        _walk(*arrays, running, first, turned)

    in_parallel(run, range(0, entries, share))


@kernel()
@no_type_check
def _walk(decays, drives, states, running, first, turned):
    tokens, begin, width = len(drives), np.uint64(first), np.uint64(len(running))
    for place in range(tokens):
        t = tokens - 1 - place if turned else place
        now, met = np.uint64(t), np.uint64(t + 1 if turned else t)
        if place == 0:
            for c in range(width):
                running[c] = drives[now, begin + c]
                states[now, begin + c] = running[c]
            continue
        for c in range(width):
            new = decays[met, begin + c] * running[c] + drives[now, begin + c]
            running[c] = new
            states[now, begin + c] = new
