"""The maps of an inspection as a notebook widget, as in the page of a report.

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

from dsf.report.colours import shaded
from dsf.report.map_bytes import MASKED, decoded
from dsf.report.sheet import Sheet, broken, written
from dsf.report.viewer import EXPLORER, module_of, style_of
from dsf.report.views import without_sample

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


@cache
def explorer() -> Any:
    """Return the class of the widget: an ``anywidget.AnyWidget`` made of a ``content``.

    Raises:
        ModuleNotFoundError: if ``anywidget`` is not installed.
    """
    try:
        import anywidget
        import traitlets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"show: without a 'path' it needs a widget library that is not installed ({error}). "
            'Install it with: pip install "dsf-toolkit[notebooks]"; '
            "or write a page: dsf.show(result, path)."
        ) from error

    class Explorer(anywidget.AnyWidget):  # type: ignore[misc]  # untyped where not installed
        """The interactive maps of an inspection."""

        _esm = module_of(*EXPLORER, "widget", sheet=style_of("explorer"))
        content = traitlets.Dict().tag(sync=True)

        def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            bundle, facts = super()._repr_mimebundle_(**options)
            return {**bundle, "image/png": static_picture(self.content)}, facts

    return Explorer
