"""Shows the result of an inspection: as an HTML page, as a notebook widget, or as a picture."""

from typing import TYPE_CHECKING

from dsf.runtime.first_use import finding

__all__ = ["Playground", "draw_grid", "draw_map", "playground", "view", "write_report"]

_HOMES = {
    "Playground": "dsf.report.playground_page",
    "draw_grid": "dsf.report.figure",
    "draw_map": "dsf.report.figure",
    "playground": "dsf.report.playground_page",
    "view": "dsf.report.widget",
    "write_report": "dsf.report.page",
}

__getattr__ = finding(__name__, _HOMES)

if TYPE_CHECKING:
    from dsf.report.figure import draw_grid, draw_map
    from dsf.report.page import write_report
    from dsf.report.playground_page import Playground, playground
    from dsf.report.widget import view
