"""Uncoupled states, token after token, with nothing written out but the states."""

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.kernels.compiling import kernel
from dsf.kernels.parallel import in_parallel

# Entries worth a thread: a token of fewer is too short a run of numbers.
FEWEST = 1024


def scan_states(
    decays: Shaped[Tensor, "time entry"],
    drives: Shaped[Tensor, "time entry"],
    *,
    turned: bool,
    at_rest: bool,
    into: tuple[Shaped[Tensor, "time entry"], Shaped[Tensor, " entry"]],
) -> None:
    """Write ``h_t = decay_t h_{t-1} + drive_t``, turned ``decay_{t+1} h_{t+1} + drive_t``.

    All parts lie in memory token after token.

    Args:
        decays: of any precision.
        drives: of any precision.
        turned: whether the last token is met first.
        at_rest: whether the decay of the first token plays no part.
        into: the states, of the precision of ``drives``, and the running state, in double
            precision: what enters, and then what leaves; turned that is ``decay_1 h_1``.
    """
    arrays = [part.detach().numpy() for part in (decays, drives, *into)]
    entries = drives.shape[-1]
    share = max(FEWEST, -(-entries // torch.get_num_threads()))

    def run(first: int) -> None:
        last = min(first + share, entries)
        _walk(*arrays[:3], arrays[3][first:last], first, turned, at_rest)

    in_parallel(run, range(0, entries, share))


@kernel()
@no_type_check
def _walk(decays, drives, states, running, first, turned, at_rest):
    tokens, begin, width = len(drives), np.uint64(first), np.uint64(len(running))
    for place in range(tokens):
        now = np.uint64(tokens - 1 - place if turned else place)
        meets = not (at_rest and now == 0)
        if turned:
            for c in range(width):
                new = running[c] + drives[now, begin + c]
                states[now, begin + c] = new
                running[c] = decays[now, begin + c] * new if meets else new
        elif meets:
            for c in range(width):
                new = decays[now, begin + c] * running[c] + drives[now, begin + c]
                running[c] = new
                states[now, begin + c] = new
        else:
            for c in range(width):
                running[c] = drives[now, begin + c]
                states[now, begin + c] = running[c]
