"""Converts systems and maps to and from other tools, which are imported only when needed."""

from dsf.report.exchange.maps import to_bertviz, to_circuitsvis, to_npz, to_safetensors, to_xarray
from dsf.report.exchange.time_invariant import (
    from_control,
    from_scipy,
    from_state_space,
    state_space,
    to_control,
    to_scipy,
)
from dsf.report.exchange.transformer_lens import from_transformer_lens

__all__ = [
    "from_control",
    "from_scipy",
    "from_state_space",
    "from_transformer_lens",
    "state_space",
    "to_bertviz",
    "to_circuitsvis",
    "to_control",
    "to_npz",
    "to_safetensors",
    "to_scipy",
    "to_xarray",
]
