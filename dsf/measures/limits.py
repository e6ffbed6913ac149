"""How much of a row may be left out so that its numbers keep within a stated error."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """When a row may stop: at this share of its weight left out, and tokens of mean distance."""

    share: float
    tokens: float


def limit(error: float, steps: int) -> Limit:
    """What may be left out so that shares, distances and entropies are off by ``error`` at most.

    Leaving out a share p changes the entropy of a row of n tokens by at most ``p log n + h(p)``,
    with ``h(p) <= p (1 + log 1/p)`` the entropy of the choice itself.
    """
    if error == 0:
        return Limit(0.0, 0.0)
    return Limit(error / (2 * (1 + math.log(1 / error) + math.log(steps + 1))), error)
