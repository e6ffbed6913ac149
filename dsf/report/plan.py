"""How much of every map goes into the file, so that a report of any model opens at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

from dsf.report.selection import Selection

EXACT_CELLS = 2**20
VIEW_CELLS = 146 * 256**2
WHOLE_CELLS = 2**21
LONG_SHARE = 4  # a map token by token takes room from the views: for so many cells that of one
LARGEST_VIEW, SMALLEST_VIEW, STEP = 256, 48, 16
LONGEST_WHOLE = 4096


@dataclass(frozen=True)
class Plan:
    """What the file holds.

    Attributes:
        side: cells along each side of a view.
        exact: whether views hold every weight as float32 beside its 8-bit code.
        whole: the layers whose first map is there token by token beside the pooled view.
    """

    side: int
    exact: bool
    whole: frozenset[int]


def plan(drawn: Sequence[Selection]) -> Plan:
    """Share the budgets of cells among the maps of all layers."""
    sizes = [_size(layer) for layer in drawn]
    cells = sum(len(layer.labels) * size**2 for layer, size in zip(drawn, sizes, strict=True))
    maps = sum(len(layer.labels) for layer in drawn)
    longest = max(sizes, default=1)
    if cells <= EXACT_CELLS and longest <= LARGEST_VIEW:
        return Plan(side=longest, exact=True, whole=frozenset())
    long = sum(sizes[at] ** 2 for at in _whole(sizes, LARGEST_VIEW))
    side = isqrt((VIEW_CELLS - long // LONG_SHARE) // max(maps, 1)) // STEP * STEP
    side = min(max(side, SMALLEST_VIEW), LARGEST_VIEW)
    return Plan(side=side, exact=False, whole=_whole(sizes, side))


def _whole(sizes: list[int], side: int) -> frozenset[int]:
    """Layers in turn until the budget is spent; the first that is short enough in any case."""
    left, kept = WHOLE_CELLS, list[int]()
    for at, size in enumerate(sizes):
        if side < size <= LONGEST_WHOLE and (size**2 <= left or not kept):
            kept.append(at)
            left -= size**2
    return frozenset(kept)


def _size(layer: Selection) -> int:
    return max(layer.system.steps, getattr(layer.system, "read_steps", 1))
