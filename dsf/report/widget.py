"""``view``: the maps of an inspection as a notebook widget, as in the page of a report.

A saved notebook shows thumbnails of all maps (``static_picture``) in place of the widget.
"""

import zlib
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import UInt8

from dsf.attribution import Attribution, Paths
from dsf.inspection.choice import Chosen
from dsf.interventions import Intervention
from dsf.report.attribution_content import explained
from dsf.report.colours import shaded
from dsf.report.content import Grid, content
from dsf.report.map_bytes import MASKED, decoded
from dsf.report.sheet import Sheet, broken, written
from dsf.report.subjects import Decided, Shown, narrowed
from dsf.report.viewer import EXPLORER, module_of, style_of
from dsf.report.views import Progress, ignored, without_sample
from dsf.runtime.shapes import of_kind

ACROSS = 8
SIDE, NAMES, ABOVE = 0.9, 2.4, 0.25  # inches
SHARE = 0.94  # of the side, so that there is room between neighbours
NAME, DPI = 30, 100

Thumbnail = tuple[Mapping[str, Any], UInt8[np.ndarray, "rows columns"]]


def static_picture(content: Mapping[str, Any]) -> bytes:
    """A PNG of a viewer's content: at most eight thumbnails for every sample of every layer."""
    lines = [line for layer in content["layers"] for line in _lines(layer)]
    across = max((len(maps) for _, maps in lines), default=1)
    pitch, side = SIDE + ABOVE, SHARE * SIDE
    sheet = Sheet(NAMES + across * SIDE, max(len(lines), 1) * pitch, dpi=DPI)
    for down, (name, maps) in enumerate(lines):
        top = down * pitch + ABOVE
        sheet.write_lines(name, 0.1, top + side / 2, size=8.0, align="left")
        for at, (map, codes) in enumerate(maps):
            left = NAMES + at * SIDE
            weights = decoded(codes, map["scale"])
            colours = shaded(weights, codes == MASKED, map["bright"] or 1.0)
            sheet.draw(colours, left, top, side, side)
            label = written(without_sample(map["label"], map["sample"]))
            sheet.write(label, left + side / 2, top - 0.07, size=7.0)
    out = BytesIO()
    sheet.picture().save(out, "png")
    return out.getvalue()


def _lines(layer: Mapping[str, Any]) -> list[tuple[list[str], list[Thumbnail]]]:
    """For every sample of a layer its name and the first maps, with their codes."""
    packed = layer["thumbnails"]
    codes = np.frombuffer(zlib.decompress(packed["codes"]), np.uint8)
    of_sample: dict[int, list[Thumbnail]] = defaultdict(list)
    for each in zip(
        layer["maps"], codes.reshape(-1, packed["rows"], packed["columns"]), strict=True
    ):
        of_sample[each[0]["sample"]].append(each)
    name = [*broken(layer["name"], NAME), written(layer["family"])]
    return [
        (name + ([f"sample {k}"] if len(of_sample) > 1 else []), maps[:ACROSS])
        for k, maps in of_sample.items()
    ]


def view(  # noqa: PLR0913  # each is a word of the viewer or of the choice
    inspection: Shown,
    *,
    verdicts: Decided = None,
    grid: Grid | None = None,
    layers: Chosen = None,
    heads: Chosen = None,
    attribution: Attribution | None = None,
    target: str = "the logit",
    paths: Paths | None = None,
    intervention: Intervention | None = None,
    progress: Progress = ignored,
) -> Any:
    """Show an inspection in a notebook: the viewer of ``write_report`` as a widget.

    It needs no network. A saved notebook keeps a picture of all maps, which is shown where widgets
    do not run.

    Args:
        inspection: the result of ``dsf.inspect``, or a list of them to compare models.
        verdicts: the verdicts about the layers; see ``write_report``.
        grid: height and width of a picture whose patches are the last tokens.
        layers, heads: which to show, as for ``write_report``; all by default.
        attribution: what ``dsf.stack(model, ...).attribute(...)`` returned for the same input. The
            tokens are shaded by their shares, and every layer begins with the shares of its edges.
        target: words for the number that is attributed, such as ``"the logit of Paris"``.
        paths: ``attribution.paths(...)``, to be drawn.
        intervention: what ``dsf.intervene`` returned for the same input: by how much the output
            moves after every token, and the last logits of the clean or the changed run.
        progress: called with the finished share, from 0 to 1.

    Returns:
        An ``anywidget.AnyWidget``, which a notebook displays.

    Raises:
        ModuleNotFoundError: if ``anywidget`` is not installed.
        InspectionError, TypeError, ValueError: as ``write_report`` does.
    """
    of_kind("view", "target", target, str, "words such as 'the logit of Paris'")
    of_kind("view", "progress", progress, callable, "a function of the finished share")
    kind = _kind()
    inspection = narrowed(inspection, layers, heads)
    return kind(
        content=content(
            inspection,
            verdicts=verdicts,
            grid=grid,
            explained=explained(inspection, attribution, target, paths),
            intervention=intervention,
            progress=progress,
        )
    )


@cache
def _kind() -> Any:
    try:
        import anywidget
        import traitlets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"dsf.view needs a widget library that is not installed ({error}). "
            'Install it with: pip install "dsf-toolkit[notebooks]"; '
            "or write a page with dsf.write_report."
        ) from error

    class Explorer(anywidget.AnyWidget):  # type: ignore[misc]  # untyped where not installed
        """The interactive maps of an inspection."""

        _esm = module_of(*EXPLORER, "widget", sheet=style_of("explorer"))
        content = traitlets.Dict().tag(sync=True)

        def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            bundle, facts = super()._repr_mimebundle_(**options)
            return {**bundle, "image/png": static_picture(self.content)}, facts

    return Explorer
