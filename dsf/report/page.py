"""``write_report``: an inspection as one self-contained HTML file that needs no network."""

import base64
import hashlib
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from dsf.attribution import Attribution, Paths
from dsf.inspection.choice import Chosen
from dsf.interventions import Intervention
from dsf.properties.decided import VerdictCount, verdict_counts
from dsf.properties.names import IF_NOT
from dsf.report.attribution_content import explained
from dsf.report.content import Grid, content, embedded
from dsf.report.escaping import escaped
from dsf.report.full_resolution import FULL_BYTES
from dsf.report.memory_needs import within_memory
from dsf.report.subjects import Decided, Shown, Subject, narrowed, subjects
from dsf.report.viewer import EXPLORER, file_of, script_of, style_of
from dsf.report.views import Progress, ignored
from dsf.runtime.files import replace_file
from dsf.runtime.shapes import of_kind


def write_report(  # noqa: PLR0913  # each is a word of the page or of the choice
    inspection: Shown,
    path: str | Path,
    *,
    title: str | None = None,
    facts: Mapping[str, str] | None = None,
    verdicts: Decided = None,
    grid: Grid | None = None,
    layers: Chosen = None,
    heads: Chosen = None,
    full_resolution: int = FULL_BYTES,
    attribution: Attribution | None = None,
    target: str = "the logit",
    paths: Paths | None = None,
    intervention: Intervention | None = None,
    progress: Progress = ignored,
) -> Path:
    """Write the result of an inspection as one self-contained HTML file.

    It shows every layer with its two numbers, tolerance and maps, measures of the maps and of the
    state, and the modules that could not be read. The file needs no network, and its content
    security policy allows no script but its own, whatever the tokens contain. Long maps are pooled
    by magnitude with the sign kept. A layer whose channels have a map each opens with one picture:
    how strongly each token acts on each other through all channels (``contribution_norms``, for
    groups of neighbouring tokens where the layer is wide or the input long). Of its channels the 8
    with the most energy off the diagonal follow, or those that ``heads`` chose; the page states how
    many are not drawn. Under the layers stands their attention rollout (Abnar and Zuidema 2020),
    which leaves out values, norms and feed-forward layers, or the reason for which there is none.

    Args:
        inspection: the result of ``dsf.inspect``, or a list of them to compare models.
        path: the file to write; an existing file is replaced only once all is written.
        title: the heading; by default the model's name.
        facts: further lines for the head of the page, such as an accuracy.
        verdicts: the verdicts about the layers, as ``dsf check`` gives them, shown beside the maps
            and in a table; for several inspections one table, or None, for each.
        grid: height and width of a picture whose patches, row by row, are the last
            ``height * width`` tokens; adds a view of the weights on every patch.
        layers, heads: which layers to show, and which heads or channels of each, in the words of
            ``dsf.inspect``; all by default. Heads are numbered among those of the inspection.
        full_resolution: how many compressed bytes of maps of up to 4,096 tokens the page keeps
            without pooling, so that zooming shows single tokens; 1 MiB by default, which takes a
            third more in the file. Those with the most weight away from the diagonal and the first
            key come first; 0 keeps none. They have one byte for a weight; up to a quarter of the
            bytes hold windows of them in float32.
        attribution: what ``dsf.stack(model, ...).attribute(...)`` returned for the same input. The
            page then shades the tokens by their shares and shows the edges of every layer.
        target: words for the number that is attributed, such as ``"the logit of Paris"``.
        paths: ``attribution.paths(...)``, to be drawn.
        intervention: what ``dsf.intervene`` returned for the same input. The page then shows by how
            much the output after every token moves, and the last logits without and with the edits.
        progress: called with the finished share, from 0 to 1.

    Returns:
        The path that was written.

    Raises:
        IsADirectoryError: if ``path`` is a folder.
        InspectionError: if there is no such layer or head.
        ValueError: if ``inspection`` is empty, ``verdicts`` does not have one table for each, no
            layer has as many tokens as ``grid`` has patches, ``attribution`` or ``intervention``
            is of other tokens, or ``intervention`` of a model without logits.
        TypeError: if ``attribution`` is no attribution, ``intervention`` no intervention, or
            another argument not of its kind.
        MapTooLarge: if drawing one of the layers would take more memory than there is; told before
            the first map is drawn.
    """
    of_kind("write_report", "path", path, str | PathLike, "the name of a file")
    of_kind("write_report", "title", title, str | None, "a text")
    of_kind("write_report", "target", target, str, "words such as 'the logit of Paris'")
    of_kind("write_report", "progress", progress, callable, "a function of the finished share")
    of_kind("write_report", "facts", facts, Mapping | None, "lines such as {'Loss': '0.1'}")
    inspection = narrowed(inspection, layers, heads)
    shown = subjects(inspection, verdicts)
    with within_memory("write_report", inspection, whole=full_resolution > 0):
        data = content(
            inspection,
            verdicts=verdicts,
            grid=grid,
            full_resolution=full_resolution,
            explained=explained(inspection, attribution, target, paths),
            intervention=intervention,
            progress=progress,
        )
        page = rendered(shown, data, title=title, facts=facts or {})
    return replace_file(path, lambda draft: draft.write_text(page, encoding="utf-8"))


def rendered(
    shown: list[Subject], data: Mapping[str, Any], *, title: str | None, facts: Mapping[str, str]
) -> str:
    """The HTML text of the page."""
    script, style = script_of(*EXPLORER, "page"), style_of("explorer", "page")
    names = " and ".join(subject.name for subject in shown)
    layers = [layer for subject in shown for layer in subject.inspection]
    return _template().render(
        title=escaped(title or names),
        facts=facts,
        subjects=shown,
        several=len(shown) > 1,
        verdict_counts=_verdict_counts(shown),
        unsupported=[missed for subject in shown for missed in subject.inspection.unsupported],
        plain=escaped,
        if_not=defaultdict(str, IF_NOT),
        layers=list(zip(layers, data["layers"], strict=True)),
        data=Markup(embedded(data)),  # noqa: S704  # escaped by ``embedded``
        script=Markup(script),  # noqa: S704  # ours
        style=Markup(style),  # noqa: S704  # ours
        script_hash=fingerprint(script),
        style_hash=fingerprint(style),
    )


def _verdict_counts(shown: list[Subject]) -> list[tuple[str, VerdictCount]]:
    """The counts of verdicts, each with the name of its model."""
    return [
        (subject.name, count)
        for subject in shown
        if subject.verdicts is not None
        for count in verdict_counts(subject.verdicts)
    ]


@cache
def _template():  # type: ignore[no-untyped-def]
    rules = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return rules.from_string(file_of("page.html.j2"))


def fingerprint(text: str) -> str:
    """The hash by which a content security policy names an inline element."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
