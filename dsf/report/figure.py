"""All layers of an inspection in one picture."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dsf.inspection import InspectedLayer, Inspection
from dsf.report.maps import draw_map
from dsf.report.plain import plain
from dsf.report.selection import select
from dsf.report.views import MapView, views
from dsf.saving import replace_file

SIDE = 256
NAME = 24  # characters
MAP, GAP, LEFT, ABOVE, BELOW = 2.0, 0.15, 2.6, 0.3, 0.75  # inches


def draw_grid(inspection: Inspection, path: str | Path, *, most: int = 6) -> Path:
    """Write a picture with one row of maps for every layer.

    Every map has colours of its own, symmetric about zero; their reach stands above it. Maps of
    more than 256 tokens are pooled by magnitude with the sign kept.

    Args:
        path: the file to write; its ending decides the format, such as ``.png`` or ``.svg``.
        most: how many maps of one layer to draw; the strongest where there are more.

    Raises:
        ValueError: if the inspection holds no layer, or the ending names no format.
    """
    if not inspection.layers:
        raise ValueError("draw_grid: the inspection holds no layer, so there is nothing to draw.")
    rows = [_row(layer, most) for layer in inspection]
    figure, grid = _sheet(len(rows), max(len(row) for row in rows))
    tokens = inspection.tokens or ()
    for layer, row, line in zip(inspection, rows, grid, strict=True):
        _name_layer(line[0], layer)
        for axes, view in zip(line, row, strict=False):
            named = axes is line[0] and view.sample < len(tokens)
            _draw(axes, view, tokens[view.sample] if named else None)
        for axes in line[len(row) :]:
            axes.set_axis_off()
    return replace_file(path, lambda draft: _save(figure, draft))


def _sheet(down: int, across: int) -> tuple[Figure, np.ndarray]:
    """Axes at fixed places: an automatic layout takes seconds for a large grid."""
    wide, high = LEFT + across * (MAP + GAP), down * (MAP + BELOW)
    figure = Figure(figsize=(wide, high))
    places = {
        "left": LEFT / wide,
        "right": 1 - GAP / wide,
        "top": 1 - ABOVE / high,
        "bottom": (BELOW - ABOVE) / high,
        "wspace": GAP / MAP,
        "hspace": BELOW / MAP,
    }
    return figure, figure.subplots(down, across, squeeze=False, gridspec_kw=places)


def _row(layer: InspectedLayer, most: int) -> list[MapView]:
    return views(select(layer, most=most), side=SIDE)[:most]


def _draw(axes: Axes, view: MapView, tokens: Sequence[str] | None) -> None:
    title = f"{view.label}  ±{view.scale:.2g}"
    draw_map(axes, view.weights, title=title, masked=view.masked, tokens=tokens)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _name_layer(axes: Axes, layer: InspectedLayer) -> None:
    name = "\n".join(wrap(plain(layer.name).replace(" · ", " "), NAME))
    text = f"{name}\n{plain(layer.family)}\nerror {layer.error:.0e}"
    axes.annotate(
        text,
        (0, 0.5),
        xytext=(-42, 0),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=9,
        parse_math=False,
    )


def _save(figure: Figure, draft: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(draft, dpi=160)
