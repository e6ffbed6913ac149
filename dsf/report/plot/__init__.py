"""Draws measured numbers with matplotlib: each function takes numbers and returns axes."""

from dsf.report.plot.charts import (
    by_lag,
    complex_plane,
    curves,
    heat_map,
    heat_maps,
    panels,
    per_map,
    per_token,
    spectrum,
    style,
)
from dsf.report.plot.state_report import StateReport, report_state
from dsf.report.plot.tables import QUANTITIES, Quantity, architectures, draw, layers_and_heads

__all__ = [
    "QUANTITIES",
    "Quantity",
    "StateReport",
    "architectures",
    "by_lag",
    "complex_plane",
    "curves",
    "draw",
    "heat_map",
    "heat_maps",
    "layers_and_heads",
    "panels",
    "per_map",
    "per_token",
    "report_state",
    "spectrum",
    "style",
]
