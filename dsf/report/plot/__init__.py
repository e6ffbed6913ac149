"""Draws measured numbers with matplotlib: each function takes numbers and returns axes."""

from dsf.report.plot.charts import by_lag as by_lag
from dsf.report.plot.charts import complex_plane as complex_plane
from dsf.report.plot.charts import curves as curves
from dsf.report.plot.charts import heat_map as heat_map
from dsf.report.plot.charts import heat_maps as heat_maps
from dsf.report.plot.charts import panels as panels
from dsf.report.plot.charts import per_map as per_map
from dsf.report.plot.charts import per_token as per_token
from dsf.report.plot.charts import spectrum as spectrum
from dsf.report.plot.charts import style as style
from dsf.report.plot.state_report import StateReport as StateReport
from dsf.report.plot.state_report import report_state as report_state
from dsf.report.plot.tables import QUANTITIES as QUANTITIES
from dsf.report.plot.tables import Quantity as Quantity
from dsf.report.plot.tables import architectures as architectures
from dsf.report.plot.tables import draw as draw
from dsf.report.plot.tables import layers_and_heads as layers_and_heads
from dsf.runtime.first_use import public_names

__all__ = public_names(__name__)
