"""``show``: a result as one offline HTML page, or as a widget in a notebook.

A saved notebook shows a picture of the maps (``sheet_of``) in place of the widget.
"""

import base64
import hashlib
from collections import defaultdict
from collections.abc import Mapping
from functools import cache, partial
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from dsf.attribution import Agreement, Attribution, Paths
from dsf.inspection import Inspection
from dsf.inspection.choice import Chosen
from dsf.interventions import Intervention
from dsf.properties.decided import verdict_counts
from dsf.properties.names import IF_NOT
from dsf.report.content import content, embedded, within_memory
from dsf.report.escaping import escaped
from dsf.report.figure import sheet_of
from dsf.report.layer_content import Explained
from dsf.report.selection import Decided, Shown, Subject, narrowed, subjects
from dsf.report.viewer import EXPLORER, code_of, file_of, module_of, script_of, style_of
from dsf.report.views import FULL_BYTES, Progress, ignored
from dsf.runtime.argument_checks import checked
from dsf.runtime.files import replace_file
from dsf.runtime.first_use import library
from dsf.runtime.shapes import of_kind


@checked
def show(  # noqa: PLR0913  # each is a word of the page or of the choice
    result: Shown,
    path: str | PathLike[str] | None = None,
    *,
    title: str | None = None,
    facts: Mapping[str, str] | None = None,
    verdicts: Decided = None,
    layers: Chosen = None,
    heads: Chosen = None,
    full_resolution: int | None = None,
    attribution: Attribution | None = None,
    target: str = "the logit",
    paths: Paths | None = None,
    agreement: Agreement | None = None,
    cuts: Mapping[int, float] | None = None,
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
    ``heads`` chose; it states how many are not drawn.

    Args:
        result: what ``dsf.inspect`` returned, or a list of inspections to compare models.
        path: the file to write; an existing file is replaced only once all is written.
        title: the heading of the page; by default the model's name.
        facts: further lines for the head of the page, such as an accuracy.
        verdicts: the verdicts about the layers, as ``dsf check`` gives them, next to the maps and
            in a table; for several inspections one table, or None, for each.
        layers, heads: which layers to show, and which heads or channels of each, in the words of
            ``dsf.inspect``; all by default. Heads are numbered among those of the inspection.
        full_resolution: how many compressed bytes of maps of up to 4,096 tokens the page keeps
            without pooling, so that zooming shows single tokens; 32 MiB by default, enough for
            300 maps of 512 tokens, which take a third more in the file. Those with the most weight
            away from the diagonal and the first key come first; 0 keeps none. They have one byte
            for a weight.
        attribution: what ``dsf.attribute`` returned for the same input. The tokens are then shaded
            by their shares, and every layer begins with the shares of its edges.
        target: words for the number that is attributed, such as ``"the logit of Paris"``.
        paths: ``attribution.paths(...)``, to be drawn.
        agreement: ``attribution.agreement()``: how well shares predicted what cuts lost.
        cuts: by how much the number moves where no layer reads a token of the first sample, by its
            position.
        intervention: what ``dsf.intervene`` returned for the same input: by how much the output
            after every token moves, and the last logits without and with the edits.
        progress: called with the finished share, from 0 to 1.

    Returns:
        The path that was written, or an ``anywidget.AnyWidget``, which a notebook displays.

    Raises:
        IsADirectoryError: if ``path`` is a folder.
        InspectionError: if there is no such layer or head.
        ModuleNotFoundError: without a ``path``, if ``anywidget`` is not installed.
        ValueError: if ``result`` is empty, ``verdicts`` does not have one table for each,
            ``attribution`` or ``intervention`` is of other tokens, ``intervention`` of a model
            without logits, or ``title``, ``facts`` or ``full_resolution`` is given without a
            ``path``.
        TypeError: if an argument is not of its kind.
        MapTooLarge: before the first map is drawn, if drawing one of the layers for a page would
            take more memory than there is.
    """
    of_kind("show", "path", path, str | PathLike | None, "the name of a file")
    page_only = {"title": title, "facts": facts, "full_resolution": full_resolution}
    for name, value in page_only.items():
        if path is None and value is not None:
            raise ValueError(
                f"show: expected a 'path' with {name!r}, which only a page has. Pass the name of "
                f"a file to write, or leave {name!r} out."
            )
    widget: Any = explorer() if path is None else None
    chosen = narrowed(result, layers, heads)
    share = None if attribution is None else Explained(attribution, target, paths, agreement, cuts)
    contents = partial(
        content,
        chosen,
        verdicts=verdicts,
        explained=share,
        intervention=intervention,
        progress=progress,
    )
    if path is None:
        made = widget(content=contents())
        made.inspections = [chosen] if isinstance(chosen, Inspection) else list(chosen)
        return made
    shown = subjects(chosen, verdicts)
    full = FULL_BYTES if full_resolution is None else full_resolution
    with within_memory("show", chosen, whole=full > 0):
        data = contents(full_resolution=full)
        page = rendered(shown, data, title=title, facts=facts or {})
    return replace_file(Path(path), lambda draft: draft.write_text(page, encoding="utf-8"))


def rendered(
    shown: list[Subject], data: Mapping[str, Any], *, title: str | None, facts: Mapping[str, str]
) -> str:
    script, style = script_of(code_of(*EXPLORER, "page")), style_of("explorer", "page")
    names = " and ".join(subject.name for subject in shown)
    layers = [layer for subject in shown for layer in subject.inspection]
    return filled(
        file_of("page.html.j2"),
        script,
        style,
        data,
        title=escaped(title or names),
        facts=facts,
        subjects=shown,
        several=len(shown) > 1,
        verdict_counts=[
            (subject.name, count)
            for subject in shown
            if subject.verdicts is not None
            for count in verdict_counts(subject.verdicts)
        ],
        unsupported=[missed for subject in shown for missed in subject.inspection.unsupported],
        plain=escaped,
        if_not=defaultdict(str, IF_NOT),
        layers=list(zip(layers, data["layers"], strict=True)),
    )


def filled(template: str, script: str, style: str, data: Mapping[str, Any], **words: Any) -> str:
    """A page of a template, with its script and style sheet and the hashes that allow them."""
    rules = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return rules.from_string(template).render(
        data=Markup(embedded(data)),  # noqa: S704  # escaped by ``embedded``
        script=Markup(script),  # noqa: S704  # ours
        style=Markup(style),  # noqa: S704  # ours
        script_hash=fingerprint(script),
        style_hash=fingerprint(style),
        **words,
    )


def fingerprint(text: str) -> str:
    """The hash by which a content security policy names an inline element."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


PICTURE_DPI = 80


@cache
def explorer() -> Any:
    """Return the class of the widget: an ``anywidget.AnyWidget`` made of a ``content``."""
    install = '"dsf-toolkit[notebooks]", or write a page: dsf.show(result, path)'
    base: Any = library("show without a 'path'", "anywidget", install).AnyWidget
    traitlets = library("show without a 'path'", "traitlets", install)

    class Explorer(base):  # type: ignore[misc]  # untyped where not installed
        _esm = module_of(*EXPLORER, "widget", sheet=style_of("explorer"))
        content = traitlets.Dict().tag(sync=True)

        def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            bundle, facts = super()._repr_mimebundle_(**options)
            out = BytesIO()
            sheet_of(self.inspections, most=6, dpi=PICTURE_DPI).picture().save(out, "png")
            return {**bundle, "image/png": out.getvalue()}, facts

    return Explorer
