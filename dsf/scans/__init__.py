"""Sequences scanned in other orders than that of their tokens: both ways, and across a grid."""

from dsf.scans.grids import Grid
from dsf.scans.orders import ScanOrder
from dsf.scans.summation import scanned

__all__ = ["Grid", "ScanOrder", "scanned"]
