"""Shows the result of an inspection: as an HTML page, as a notebook widget, or as a picture."""

from dsf.report.figure import draw_grid, draw_map
from dsf.report.page import write_report
from dsf.report.playground_page import Playground, playground
from dsf.report.widget import view

__all__ = [
    "Playground",
    "draw_grid",
    "draw_map",
    "playground",
    "view",
    "write_report",
]
