"""Decides properties of inspected layers and of adapters, and compares inspections.

Names are imported on first use: the command line reads ``names``, which needs no torch.
"""

from typing import TYPE_CHECKING

from dsf.runtime.first_use import finding

if TYPE_CHECKING:
    from dsf.properties.adapter_laws import check_adapter
    from dsf.properties.comparison import Comparison, compare

_HOMES = {
    "Comparison": "dsf.properties.comparison",
    "check_adapter": "dsf.properties.adapter_laws",
    "compare": "dsf.properties.comparison",
}

__all__ = ["Comparison", "check_adapter", "compare"]

__getattr__ = finding("dsf.properties", _HOMES)
