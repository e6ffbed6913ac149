"""How much of a row may be left out for a given error bound."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """What truncation of a row may leave out.

    Attributes:
        share: of the absolute weight of the row.
        tokens: change of its mean distance, in tokens.
    """

    share: float
    tokens: float


def limit(error: float, steps: int) -> Limit:
    """The limit for which shares, distances and entropies have an error of at most ``error``.

    Leaving out a share p changes the entropy of a row of n tokens by at most ``p log n + h(p)``,
    with ``h(p) <= p (1 + log 1/p)`` the binary entropy of p.
    """
    if error == 0:
        return Limit(0.0, 0.0)
    return Limit(error / (2 * (1 + math.log(1 / error) + math.log(steps + 1))), error)
