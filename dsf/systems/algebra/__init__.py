"""Systems made from systems. Every function returns a new system and computes no response."""

from dsf.systems.algebra.connections import (
    change_of_basis,
    direct_sum,
    parallel,
    series,
    with_conjugates,
)
from dsf.systems.algebra.conversion import adjoint, converted, reverse, select

__all__ = [
    "adjoint",
    "change_of_basis",
    "converted",
    "direct_sum",
    "parallel",
    "reverse",
    "select",
    "series",
    "with_conjugates",
]
