"""Systems made from systems. Every function returns a new system and computes no response."""

from dsf.systems.algebra.connections import (
    change_of_basis,
    direct_sum,
    parallel,
    series,
    with_conjugates,
)
from dsf.systems.algebra.conversion import converted, select, split_at
from dsf.systems.algebra.duality import adjoint, reverse

__all__ = [
    "adjoint",
    "change_of_basis",
    "converted",
    "direct_sum",
    "parallel",
    "reverse",
    "select",
    "series",
    "split_at",
    "with_conjugates",
]
