"""Files that a command leaves behind: the evidence, the page and the picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dsf.cli.progress import progress
from dsf.inspection import Inspection
from dsf.inspection.results.table import Table
from dsf.properties.run_folder import Pages, checked_run


def write_results(
    inspection: Inspection,
    folder: Path,
    *,
    title: str | None,
    facts: Mapping[str, str],
    verdicts: Table | None = None,
    beside: Sequence[Inspection] = (),
    watched: bool,
) -> dict[str, str]:
    """Write ``report.html`` and ``maps.png``; where they lie, by name.

    Args:
        verdicts: those about ``inspection``.
        beside: further inspections for the page, without verdicts and not in the picture.
    """
    from dsf.report import draw_grid, write_report

    with progress("drawing", shown=watched) as told:
        page = write_report(
            [inspection, *beside],
            folder / "report.html",
            title=title,
            facts=facts,
            verdicts=[verdicts, *(None for _ in beside)],
            progress=told,
        )
        picture = draw_grid(inspection, folder / "maps.png")
    return {"report": str(page), "picture": str(picture)}


def decide(
    inspection: Inspection, run: Path, *, pages: Pages | None = None, watched: bool
) -> Table:
    """Decide every property of every layer, with the evidence in the folder ``run``."""
    with progress("deciding", shown=watched) as told:
        return checked_run(
            inspection, run, progress=lambda done, all_: told(done / all_), pages=pages
        )
