"""Files that a command leaves behind: the page and the picture."""

import webbrowser
from collections.abc import Mapping
from pathlib import Path

from dsf.cli.screen import progress
from dsf.inspection import Inspection


def write_results(
    inspection: Inspection,
    folder: Path,
    *,
    title: str | None,
    facts: Mapping[str, str],
    watched: bool,
) -> dict[str, str]:
    """Write ``report.html`` and ``maps.png``; where they lie, by name."""
    from dsf.report import draw_grid, write_report

    with progress("drawing", shown=watched) as told:
        page = write_report(
            inspection, folder / "report.html", title=title, facts=facts, progress=told
        )
        picture = draw_grid(inspection, folder / "maps.png")
    return {"report": str(page), "picture": str(picture)}


def open_page(path: str) -> bool:
    """Show the page in the user's browser; whether there was one."""
    return webbrowser.open(Path(path).resolve().as_uri())
