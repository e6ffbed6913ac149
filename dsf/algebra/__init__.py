"""Systems made from systems. Every function returns a new system and computes no response."""

from dsf.algebra.bases import change_of_basis, with_conjugates
from dsf.algebra.connections import direct_sum, parallel, series
from dsf.algebra.conversion import converted, select
from dsf.algebra.duality import adjoint, reverse
from dsf.algebra.windows import concatenated, split_at

__all__ = [
    "adjoint",
    "change_of_basis",
    "concatenated",
    "converted",
    "direct_sum",
    "parallel",
    "reverse",
    "select",
    "series",
    "split_at",
    "with_conjugates",
]
