"""Decides properties of inspected layers and of adapters, and compares inspections."""

from dsf.properties.adapter_laws import check_adapter
from dsf.properties.comparison import Comparison, compare

__all__ = ["Comparison", "check_adapter", "compare"]
