"""Scans in other orders than that of the tokens: both directions, rows and columns of a grid."""

from dsf.evaluate.scans.grids import Grid
from dsf.evaluate.scans.orders import ScanOrder
from dsf.evaluate.scans.summation import scanned

__all__ = ["Grid", "ScanOrder", "scanned"]
