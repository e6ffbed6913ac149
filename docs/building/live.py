"""Pages that the library writes, in addition to those of Sphinx: a report and the playground."""

from pathlib import Path

import torch
from sphinx.application import Sphinx

import dsf
from dsf.models import folder, recall

FOLDER = "live"


def setup(app: Sphinx) -> dict[str, bool]:
    """Write them when the pages are there."""
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _write(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        write(Path(app.outdir) / FOLDER)


def write(place: Path) -> None:
    """The report about the model of the front page, and the playground."""
    place.mkdir(parents=True, exist_ok=True)
    prompt = recall.draw(torch.Generator().manual_seed(0), samples=1).tokens
    inspection = dsf.inspect(
        folder("qwen3_next"), input_ids=prompt, tokens=[recall.spell(prompt[0])]
    )
    dsf.show(inspection, place / "report.html")
    dsf.report.playground().write(place / "playground.html")
