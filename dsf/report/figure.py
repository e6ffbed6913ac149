"""Static pictures of maps, drawn with matplotlib.

``draw_map`` draws one map on axes. ``draw_grid`` writes a figure with one row of maps for every
layer. ``static_picture`` draws the thumbnails that a saved notebook shows in place of a widget.
"""

import warnings
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from dsf.inspection import InspectedLayer, Inspection
from dsf.inspection.choice import Chosen
from dsf.report.escaping import escaped
from dsf.report.layer_picture import LayerPicture, layer_picture
from dsf.report.map_bytes import MASKED, decoded
from dsf.report.selection import select
from dsf.report.subjects import narrowed_one
from dsf.report.views import MapView, views
from dsf.saving import replace_file

MASKED_COLOUR = "#e7e3da"
NOT_FINITE = "#96be00"
LABELLED, LONGEST_LABEL = 40, 10
# The colours of the page: cool for negative weights, the background at zero, warm for positive.
COOL = ["#103e78", "#3879b5", "#7daed5", "#c4dbec"]
WARM = ["#fbd6b8", "#f49d6b", "#d65430", "#831816"]
SIGNED = LinearSegmentedColormap.from_list("signed", [*COOL, "#f6f5f1", *WARM])
LENGTHS = LinearSegmentedColormap.from_list("lengths", ["#f6f5f1", *WARM])


def draw_map(
    axes: Axes,
    map: Float[Tensor, "rows columns"] | Float[np.ndarray, "rows columns"],
    *,
    title: str,
    masked: Bool[np.ndarray, "rows columns"] | None = None,
    tokens: Sequence[str] | None = None,
) -> AxesImage:
    """Show one map: rows are queries, columns are keys, and the colours are symmetric about zero.

    The colours reach the largest finite magnitude. Weights that are not finite are green.

    Args:
        map: real weights; of a complex map pass the magnitudes or the real part.
        masked: cells that are masked, drawn grey.
        tokens: labels for both axes of a square map, drawn for up to 40 tokens.

    Raises:
        ValueError: if ``map`` is not one real matrix.
    """
    weights = map.numpy(force=True) if isinstance(map, Tensor) else map
    if weights.ndim != 2 or np.iscomplexobj(weights):
        raise ValueError(
            f"draw_map: 'map' must be one real matrix, but it is {weights.dtype} of shape "
            f"{weights.shape}. Pick one map, such as layer.map()[0, 3]."
        )
    odd = ~np.isfinite(weights)
    hidden = odd if masked is None else odd | masked
    reach = float(np.abs(weights[~odd]).max(initial=0.0)) or 1.0
    axes.set_facecolor(MASKED_COLOUR)
    image = axes.imshow(np.ma.masked_array(weights, hidden), cmap=SIGNED, vmin=-reach, vmax=reach)
    if odd.any():
        axes.imshow(np.ma.masked_array(odd, ~odd), cmap=ListedColormap([NOT_FINITE]))
    axes.set_title(title, fontsize=9, parse_math=False)
    _name_tokens(axes, tokens, weights.shape)
    return image


def _name_tokens(axes: Axes, tokens: Sequence[str] | None, shape: tuple[int, int]) -> None:
    """Label the axes with token texts where they fit; else draw no ticks."""
    if tokens is None or len(tokens) > LABELLED or shape != (len(tokens), len(tokens)):
        axes.set_xticks([])
        axes.set_yticks([])
        return
    texts = [escaped(token)[:LONGEST_LABEL] for token in tokens]
    size = min(6.0, 140 / len(texts))
    axes.set_xticks(range(len(texts)), texts, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(len(texts)), texts, fontsize=size, parse_math=False)
    axes.tick_params(length=0, pad=2)


ACROSS = 8
SMALL_SIDE, NAMES, HEAD = 0.9, 2.4, 0.25  # inches


def static_picture(content: Mapping[str, Any]) -> bytes:
    """A PNG with one line of at most eight thumbnails for every layer of a viewer's content."""
    layers = content["layers"]
    across = min(ACROSS, max((len(layer["maps"]) for layer in layers), default=1))
    wide, high = NAMES + across * SMALL_SIDE, max(len(layers), 1) * (SMALL_SIDE + HEAD)
    figure = Figure(figsize=(wide, high), dpi=100)
    for down, layer in enumerate(layers):
        bottom = 1 - (down * (SMALL_SIDE + HEAD) + HEAD + SMALL_SIDE) / high
        named = f"{layer['name']}\n{layer['family']}"
        text = figure.text(
            0.1 / wide, bottom + SMALL_SIDE / 2 / high, named, va="center", fontsize=8
        )
        text.set(parse_math=False, wrap=True)
        for at, (map, codes) in enumerate(zip(layer["maps"], _codes(layer), strict=True)):
            if at < across:
                left = (NAMES + at * SMALL_SIDE) / wide
                axes = figure.add_axes((left, bottom, 0.94 * SMALL_SIDE / wide, SMALL_SIDE / high))
                weights = decoded(codes, map["scale"])
                draw_map(axes, weights, title="", masked=codes == MASKED)
                axes.set_title(map["label"], fontsize=7, pad=2, parse_math=False)
                axes.set_axis_off()
    out = BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _codes(layer: Mapping[str, Any]) -> UInt8[np.ndarray, "maps rows columns"]:
    packed = layer["thumbnails"]
    codes = np.frombuffer(zlib.decompress(packed["codes"]), np.uint8)
    return codes.reshape(-1, packed["rows"], packed["columns"])


SIDE = 256
NAME = 24  # characters
MAP, GAP, LEFT, ABOVE, BELOW = 2.0, 0.15, 2.6, 0.5, 0.95  # inches


def draw_grid(
    inspection: Inspection,
    path: str | Path,
    *,
    most: int = 6,
    layers: Chosen = None,
    heads: Chosen = None,
) -> Path:
    """Write a picture with one row of maps for every layer.

    A layer whose channels have a map each begins with what all of them do together: how strongly
    every token, or group of neighbouring tokens, acts on every other, with a colour bar.
    Every map has its own colour scale, symmetric about zero, whose limit is printed above it. Maps
    of more than 256 tokens are pooled by magnitude with the sign kept.

    Args:
        path: the file to write; its ending selects the format, such as ``.png`` or ``.svg``.
        most: how many maps of one layer to draw; if it has more, the heads of the
            strongest response or the channels with the most energy off the diagonal.
        layers, heads: which layers to draw, and which heads or channels of each, as for
            ``write_report``; all by default.

    Raises:
        InspectionError: if there is no such layer or head.
        ValueError: if the inspection has no layer, or the ending is no known format.
    """
    if not inspection.layers:
        raise ValueError("draw_grid: the inspection has no layer, so there is nothing to draw.")
    inspection = narrowed_one(inspection, layers, heads)
    pictures = [layer_picture(layer, side=SIDE) for layer in inspection]
    rows = [_row(*each, most) for each in zip(inspection, pictures, strict=True)]
    figure, grid = _sheet(len(rows), max(len(row) for row in rows))
    tokens = inspection.tokens or ()
    for layer, picture, row, line in zip(inspection, pictures, rows, grid, strict=True):
        _name_layer(line[0], layer, picture)
        for axes, view in zip(line, row, strict=False):
            named = axes is line[0] and view.sample < len(tokens)
            draw = _draw if picture is None or view not in picture.views else _draw_together
            draw(axes, view, tokens[view.sample] if named else None)
        for axes in line[len(row) :]:
            axes.set_axis_off()
    return replace_file(path, lambda draft: _save(figure, draft))


def _sheet(down: int, across: int) -> tuple[Figure, np.ndarray]:
    """A figure with axes at fixed positions; an automatic layout takes seconds for a large grid."""
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


def _row(layer: InspectedLayer, picture: LayerPicture | None, most: int) -> list[MapView]:
    first = [] if picture is None else picture.views[:1]
    left = most - len(first)
    return first + (views(select(layer, most=left), side=SIDE)[:left] if left else [])


def _draw(axes: Axes, view: MapView, tokens: Sequence[str] | None) -> None:
    title = f"{view.label}  ±{view.scale:.2g}"
    draw_map(axes, view.weights, title=title, masked=view.masked, tokens=tokens)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_together(axes: Axes, view: MapView, tokens: Sequence[str] | None) -> None:
    """What all channels do together; lengths, so that the colours begin at zero."""
    image = draw_map(axes, view.weights, title="", masked=view.masked, tokens=tokens)
    image.set_cmap(LENGTHS)
    image.set_clim(0, view.scale or 1)
    axes.set_title(view.label, fontsize=9, pad=19, parse_math=False)
    bar = axes.inset_axes((0.14, 1.025, 0.6, 0.035))
    axes.figure.colorbar(image, cax=bar, orientation="horizontal", ticks=[])
    for at, side, end in ((-0.04, "right", "0"), (1.04, "left", f"{view.scale:.2g}")):
        bar.text(at, 0.5, end, ha=side, va="center", fontsize=8, transform=bar.transAxes)
    for spine in (*axes.spines.values(), *bar.spines.values()):
        spine.set_visible(False)


def _name_layer(axes: Axes, layer: InspectedLayer, picture: LayerPicture | None) -> None:
    name = "\n".join(wrap(escaped(layer.name).replace(" · ", " "), NAME))
    text = f"{name}\n{escaped(layer.family)}\nformula {layer.formula:.0e}"
    if picture is not None:
        told = f"First: length of what a token contributes to {picture.onto}, in its unit"
        text += "\n" + "\n".join(wrap(told, NAME + 4))
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
