"""``show``: a result as a page where a path is given, and in the notebook where not."""

from collections.abc import Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from dsf.attribution import Attribution, Paths
from dsf.inspection.choice import Chosen
from dsf.interventions import Intervention
from dsf.report.attribution_content import explained
from dsf.report.content import Grid, content
from dsf.report.full_resolution import FULL_BYTES
from dsf.report.memory_needs import within_memory
from dsf.report.page import rendered
from dsf.report.subjects import Decided, Shown, narrowed, subjects
from dsf.report.views import Progress, ignored
from dsf.report.widget import explorer
from dsf.runtime.files import replace_file
from dsf.runtime.shapes import of_kind


def show(  # noqa: PLR0913  # each is a word of the page or of the choice
    result: Shown,
    path: str | PathLike[str] | None = None,
    *,
    title: str | None = None,
    facts: Mapping[str, str] | None = None,
    verdicts: Decided = None,
    grid: Grid | None = None,
    layers: Chosen = None,
    heads: Chosen = None,
    full_resolution: int | None = None,
    attribution: Attribution | None = None,
    target: str = "the logit",
    paths: Paths | None = None,
    intervention: Intervention | None = None,
    progress: Progress = ignored,
) -> Any:
    """Write an inspection as a page, or show it in a notebook where no ``path`` is given.

    It shows every layer with its two numbers, tolerance and maps, measures of the maps and of the
    state, and the modules that could not be read. The page is one self-contained HTML file that
    needs no network, and its content security policy allows no script but its own, whatever the
    tokens contain; a saved notebook keeps a picture of all maps, which is shown where widgets do
    not run. Long maps are pooled by magnitude with the sign kept. A layer whose channels have a map
    each opens with one picture: how strongly each token acts on each other through all channels
    (``contribution_norms``, for groups of neighbouring tokens where the layer is wide or the input
    long). Of its channels the 8 with the most energy off the diagonal follow, or those that
    ``heads`` chose; it states how many are not drawn. Below the layers is their attention rollout
    (Abnar and Zuidema 2020), which leaves out values, norms and feed-forward layers, or the reason
    for which there is none.

    Args:
        result: what ``dsf.inspect`` returned, or a list of inspections to compare models.
        path: the file to write; an existing file is replaced only once all is written.
        title: the heading of the page; by default the model's name.
        facts: further lines for the head of the page, such as an accuracy.
        verdicts: the verdicts about the layers, as ``dsf check`` gives them, next to the maps and
            in a table; for several inspections one table, or None, for each.
        grid: height and width of a picture whose patches, row by row, are the last
            ``height * width`` tokens; adds a view of the weights on every patch.
        layers, heads: which layers to show, and which heads or channels of each, in the words of
            ``dsf.inspect``; all by default. Heads are numbered among those of the inspection.
        full_resolution: how many compressed bytes of maps of up to 4,096 tokens the page keeps
            without pooling, so that zooming shows single tokens; 1 MiB by default, which takes a
            third more in the file. Those with the most weight away from the diagonal and the first
            key come first; 0 keeps none. They have one byte for a weight; up to a quarter of the
            bytes hold windows of them in float32.
        attribution: what ``dsf.attribute`` returned for the same input. The tokens are then shaded
            by their shares, and every layer begins with the shares of its edges.
        target: words for the number that is attributed, such as ``"the logit of Paris"``.
        paths: ``attribution.paths(...)``, to be drawn.
        intervention: what ``dsf.intervene`` returned for the same input: by how much the output
            after every token moves, and the last logits without and with the edits.
        progress: called with the finished share, from 0 to 1.

    Returns:
        The path that was written, or an ``anywidget.AnyWidget``, which a notebook displays.

    Raises:
        IsADirectoryError: if ``path`` is a folder.
        InspectionError: if there is no such layer or head.
        ModuleNotFoundError: without a ``path``, if ``anywidget`` is not installed.
        ValueError: if ``result`` is empty, ``verdicts`` does not have one table for each, no
            layer has as many tokens as ``grid`` has patches, ``attribution`` or ``intervention``
            is of other tokens, ``intervention`` of a model without logits, or ``title``, ``facts``
            or ``full_resolution`` is given without a ``path``.
        TypeError: if an argument is not of its kind.
        MapTooLarge: before the first map is drawn, if drawing one of the layers for a page would
            take more memory than there is.
    """
    of_kind("show", "path", path, str | PathLike | None, "the name of a file")
    of_kind("show", "title", title, str | None, "a text")
    of_kind("show", "target", target, str, "words such as 'the logit of Paris'")
    of_kind("show", "progress", progress, callable, "a function of the finished share")
    of_kind("show", "facts", facts, Mapping | None, "lines such as {'Loss': '0.1'}")
    page_only = {"title": title, "facts": facts, "full_resolution": full_resolution}
    for name, value in page_only.items():
        if path is None and value is not None:
            raise ValueError(
                f"show: expected a 'path' with {name!r}, which only a page has. Pass the name of "
                f"a file to write, or leave {name!r} out."
            )
    widget: Any = explorer() if path is None else None
    chosen = narrowed(result, layers, heads)
    contents = partial(
        content,
        chosen,
        verdicts=verdicts,
        grid=grid,
        explained=explained(chosen, attribution, target, paths),
        intervention=intervention,
        progress=progress,
    )
    if path is None:
        return widget(content=contents())
    shown = subjects(chosen, verdicts)
    full = FULL_BYTES if full_resolution is None else full_resolution
    with within_memory("show", chosen, whole=full > 0):
        data = contents(full_resolution=full)
        page = rendered(shown, data, title=title, facts=facts or {})
    return replace_file(Path(path), lambda draft: draft.write_text(page, encoding="utf-8"))
