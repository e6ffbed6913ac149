"""Scans in other orders than that of the tokens: both directions, rows and columns of a grid."""

from dsf.scans.grids import Grid
from dsf.scans.orders import ScanOrder
from dsf.scans.summation import scanned

__all__ = ["Grid", "ScanOrder", "scanned"]
