"""Draws measured numbers with matplotlib: each function takes numbers and returns axes."""

from dsf.plot.bars import histogram, per_map
from dsf.plot.drawing_style import panels, style
from dsf.plot.heat import heat_map, heat_maps
from dsf.plot.lines import by_lag, curves, per_token, rank_profile, spectrum
from dsf.plot.planes import complex_plane
from dsf.plot.quantities import QUANTITIES, Quantity, draw
from dsf.plot.state_report import StateReport, report_state
from dsf.plot.tables import architectures, layers_and_heads

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
    "histogram",
    "layers_and_heads",
    "panels",
    "per_map",
    "per_token",
    "rank_profile",
    "report_state",
    "spectrum",
    "style",
]
