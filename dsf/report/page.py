"""``write_report``: an inspection as one HTML file that asks for nothing, not even a network."""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from dsf.inspection import Inspection
from dsf.inspection.table import Table
from dsf.inspection.tally import tallies
from dsf.report.content import content, embedded
from dsf.report.plain import plain
from dsf.report.views import Progress, untold
from dsf.saving import replace_file

SCRIPTS = (
    "codes",
    "colours",
    "words",
    "surface",
    "labels",
    "marks",
    "motion",
    "strip",
    "tables",
    "viewer",
    "page",
)


def write_report(
    inspection: Inspection,
    path: str | Path,
    *,
    title: str | None = None,
    facts: Mapping[str, str] | None = None,
    verdicts: Table | None = None,
    progress: Progress = untold,
) -> Path:
    """Write what an inspection found as one self-contained HTML file.

    Every layer with its error and tolerance, its maps to look at closely, and what could not be
    read. The file needs no network and runs no code but its own, whatever the tokens say. Long
    maps are pooled by magnitude with the sign kept; of layers with many channels the strongest
    are drawn, and the page says how many are not.

    Args:
        path: the file to write, replaced in one move when all went well.
        title: the heading; the model's name by default.
        facts: further lines for the head of the page, such as an accuracy.
        verdicts: what was decided about the layers, as ``dsf check`` does, for a page of its own.
        progress: called with the share that is done, from 0 to 1.

    Returns:
        The path that was written.

    Raises:
        IsADirectoryError: if ``path`` is a folder.
    """
    page = rendered(
        inspection, title=title, facts=facts or {}, verdicts=verdicts, progress=progress
    )
    return replace_file(path, lambda draft: draft.write_text(page, encoding="utf-8"))


def rendered(
    inspection: Inspection,
    *,
    title: str | None,
    facts: Mapping[str, str],
    verdicts: Table | None = None,
    progress: Progress = untold,
) -> str:
    """The text of the page."""
    script, style = _script(), _file("page.css")
    data = content(inspection, progress=progress)
    return _template().render(
        title=plain(title or inspection.model or "Token mixers"),
        inspection=inspection,
        facts=facts,
        tallies=tallies(verdicts) if verdicts is not None else [],
        plain=plain,
        layers=list(zip(inspection, data["layers"], strict=True)),
        data=Markup(embedded(data)),  # noqa: S704  # escaped by ``embedded``
        script=Markup(script),  # noqa: S704  # ours
        style=Markup(style),  # noqa: S704  # ours
        script_hash=_fingerprint(script),
        style_hash=_fingerprint(style),
    )


@cache
def _template():  # type: ignore[no-untyped-def]
    rules = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return rules.from_string(_file("page.html.j2"))


def _script() -> str:
    parts = "\n".join(_file(f"{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\n}})();\n'


def _file(name: str) -> str:
    return (files("dsf.report") / "viewer" / name).read_text(encoding="utf-8")


def _fingerprint(text: str) -> str:
    """As a content security policy names an inline element."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
