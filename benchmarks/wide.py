"""Case 9: states that do not meet, as wide as a layer of Mamba. The limit is memory.

Two numbers are read and one is written for each. ``dsf`` and the limit write into memory that is
used again, all others into fresh memory, as ``dsf, fresh memory`` does.
"""

import torch

from benchmarks import peers
from benchmarks.evaluation import Row, measured
from benchmarks.layers import RNG, normal
from benchmarks.limits import Needs
from dsf.systems.transition import Diagonal, recurrence

SEEN = 1024  # columns whose error is looked at


def wide(tokens: int, *, columns: int = 24_576) -> list[Row]:
    from dsf.systems.kernels.recurrences import scan_states

    decay, drive = torch.rand(tokens, columns, generator=RNG), normal(tokens, columns)
    states, running = torch.zeros_like(drive), torch.zeros(columns, dtype=torch.float64)

    def loop() -> torch.Tensor:
        scan_states(decay, drive, at_rest=True, into=(states, running))
        return states

    some = (part[:, :SEEN].double() for part in (decay, drive.unsqueeze(-1)))
    exact = recurrence(Diagonal(next(some)), next(some)).squeeze(-1)
    works = {
        "dsf": loop,
        "dsf, fresh memory": lambda: recurrence(Diagonal(decay), drive.unsqueeze(-1)),
        **peers.scans(decay, drive),
    }
    numbers = tokens * columns
    return measured(
        f"Wide scan, {tokens} tokens", works, exact, Needs(numbers, 2 * numbers, numbers)
    )
