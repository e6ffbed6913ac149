"""Shows results: as an HTML page, in a notebook, as a picture, or in formats of other tools."""

from typing import TYPE_CHECKING

from dsf.runtime.first_use import finding

__getattr__ = finding(__name__)

if TYPE_CHECKING:
    from dsf.report import exchange as exchange
    from dsf.report import plot as plot
    from dsf.report.figure import draw_grid as draw_grid
    from dsf.report.page import show as show
    from dsf.report.playground_page import Playground as Playground
    from dsf.report.playground_page import playground as playground
    from dsf.report.plot.state_report import report_state as report_state
