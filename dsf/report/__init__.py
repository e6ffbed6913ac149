"""Shows results: as an HTML page, in a notebook, as a picture, or in formats of other tools."""

from typing import TYPE_CHECKING

from dsf.runtime.first_use import finding

__all__ = [
    "Playground",
    "draw_grid",
    "exchange",
    "playground",
    "plot",
    "report_state",
    "show",
]

__getattr__ = finding(__name__)

if TYPE_CHECKING:
    from dsf.report import exchange, plot
    from dsf.report.figure import draw_grid
    from dsf.report.page import show
    from dsf.report.playground_page import Playground, playground
    from dsf.report.plot.state_report import report_state
