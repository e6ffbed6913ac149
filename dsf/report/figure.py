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
from matplotlib.colors import FuncNorm, LinearSegmentedColormap, ListedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from dsf.inspection import InspectedLayer, Inspection
from dsf.inspection.choice import Chosen
from dsf.report.escaping import escaped
from dsf.report.layer_picture import LayerPicture, layer_picture
from dsf.report.map_bytes import MASKED, decoded
from dsf.report.map_view import MapView
from dsf.report.memory_needs import within_memory
from dsf.report.selection import select
from dsf.report.subjects import narrowed_one
from dsf.report.views import views
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
    image = axes.imshow(
        np.ma.masked_array(weights, hidden),
        cmap=SIGNED,
        vmin=-reach,
        vmax=reach,
        interpolation="none",  # vector formats keep every cell sharp
    )
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
                image = draw_map(axes, weights, title="", masked=codes == MASKED)
                _colour(image, map["bright"] or 1.0, signed=map["signed"])
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
NAME = 26  # characters
MAP, GAP, LEFT, ABOVE, BELOW, UNDER = 2.0, 0.32, 2.9, 0.62, 0.72, 0.36  # inches
NAMED = 0.3  # more inches below a map whose tokens are named
LONGEST_LINE = 8


def draw_grid(
    inspection: Inspection,
    path: str | Path,
    *,
    most: int | None = 6,
    across: int = LONGEST_LINE,
    layers: Chosen = None,
    heads: Chosen = None,
) -> Path:
    """Write a picture with the maps of every layer, fit for a paper.

    Rows are queries and columns are keys. The colours follow the square root of the weight, each
    map with a colour bar of its own, from zero where no weight is negative. They are full from a
    weight on that 98 of 100 cells do not exceed, without the diagonal and the first key; a bar that
    does not reach the largest weight ends with ``≥``. A layer whose channels have a map each begins
    with what all of them do together: how strongly every token, or group of neighbouring tokens,
    acts on every other. Maps of more than 256 tokens are pooled by magnitude with the sign kept.

    Args:
        path: the file to write; its ending selects the format: ``.png``, or for text as vectors and
            sharp cells ``.svg`` or ``.pdf``.
        most: how many maps of one layer to draw; if it has more, the heads of the
            strongest response or the channels with the most energy off the diagonal. None draws
            all heads, of more than 64 those of the strongest response.
        across: how many maps stand side by side before the next line begins.
        layers, heads: which layers to draw, and which heads or channels of each, as for
            ``write_report``; all by default.

    Raises:
        InspectionError: if there is no such layer or head.
        MapTooLarge: if drawing one of the layers would take more memory than there is.
        ValueError: if the inspection has no layer, ``most`` or ``across`` is less than 1, or the
            ending is no known format.
    """
    if not inspection.layers:
        raise ValueError("draw_grid: the inspection has no layer, so there is nothing to draw.")
    for name, number in (("most", most), ("across", across)):
        if number is not None and number < 1:
            raise ValueError(f"draw_grid: '{name}' must be at least 1, but it is {number}.")
    inspection = narrowed_one(inspection, layers, heads)
    with within_memory("draw_grid", inspection, whole=False):
        pictures = [layer_picture(layer, side=SIDE) for layer in inspection]
        rows = [_row(*each, most) for each in zip(inspection, pictures, strict=True)]
    lines = [
        (layer, picture, row[at : at + across], at == 0)
        for layer, picture, row in zip(inspection, pictures, rows, strict=True)
        for at in range(0, len(row), across)
    ]
    tokens = inspection.tokens or ()
    texts = NAMED if any(len(sample) <= LABELLED for sample in tokens) else 0.0
    figure, grid = _sheet(len(lines), max(len(line[2]) for line in lines), texts)
    for (layer, picture, line, is_first), places in zip(lines, grid, strict=True):
        if is_first:
            _name_layer(places[0], layer, picture)
        for axes, view in zip(places, line, strict=False):
            named = axes is places[0] and view.sample < len(tokens)
            _draw(axes, view, tokens[view.sample] if named else None, outer=axes is places[0])
        for axes in places[len(line) :]:
            axes.set_axis_off()
    return replace_file(path, lambda draft: _save(figure, draft))


def _sheet(down: int, across: int, texts: float) -> tuple[Figure, np.ndarray]:
    """A figure with axes at fixed positions; an automatic layout takes seconds for a large grid."""
    between, below = ABOVE + BELOW - UNDER + texts, BELOW + texts
    wide, high = LEFT + across * (MAP + GAP), down * (MAP + between) + UNDER
    figure = Figure(figsize=(wide, high))
    places = {
        "left": LEFT / wide,
        "right": 1 - GAP / wide,
        "top": 1 - ABOVE / high,
        "bottom": below / high,
        "wspace": GAP / MAP,
        "hspace": between / MAP,
    }
    return figure, figure.subplots(down, across, squeeze=False, gridspec_kw=places)


def _row(layer: InspectedLayer, picture: LayerPicture | None, most: int | None) -> list[MapView]:
    first = [] if picture is None else picture.views[:1]
    if most is None:
        return first + views(select(layer), side=SIDE)
    left = most - len(first)
    return first + (views(select(layer, most=left), side=SIDE)[:left] if left else [])


def _draw(axes: Axes, view: MapView, tokens: Sequence[str] | None, *, outer: bool) -> None:
    """One map with its name, axes and colour bar; ``outer`` is the first of its line."""
    image = draw_map(axes, view.weights, title="", masked=view.masked, tokens=tokens)
    reach = view.bright or 1.0
    _colour(image, reach, signed=view.signed)
    axes.set_title(view.label, fontsize=9, pad=19, parse_math=False)
    axes.set_xlabel("key →", fontsize=8, labelpad=2)
    if outer:
        axes.set_ylabel("← query", fontsize=8, labelpad=2)
    bar = axes.inset_axes((0.28, 1.03, 0.42, 0.035) if view.signed else (0.16, 1.03, 0.56, 0.035))
    axes.figure.colorbar(image, cax=bar, orientation="horizontal", ticks=[])
    cut = "≥ " if view.scale > reach else ""
    least = f"−{reach:.2g}" if view.signed else "0"
    for at, side, end in ((-0.04, "right", least), (1.04, "left", f"{cut}{reach:.2g}")):
        bar.text(at, 0.5, end, ha=side, va="center", fontsize=7.5, transform=bar.transAxes)
    for spine in (*axes.spines.values(), *bar.spines.values()):
        spine.set_visible(False)


def _colour(image: AxesImage, reach: float, *, signed: bool) -> None:
    """Colours by the square root of the weight, full from ``reach`` on."""
    if signed:
        image.set_cmap(SIGNED)
        image.set_norm(FuncNorm((_signed_root, _signed_square), vmin=-reach, vmax=reach))
    else:
        image.set_cmap(LENGTHS)
        image.set_norm(PowerNorm(0.5, vmin=0, vmax=reach))


def _signed_root(weights: Float[np.ndarray, "*size"]) -> Float[np.ndarray, "*size"]:
    return np.copysign(np.sqrt(np.abs(weights)), weights)


def _signed_square(roots: Float[np.ndarray, "*size"]) -> Float[np.ndarray, "*size"]:
    return np.copysign(np.square(roots), roots)


def _name_layer(axes: Axes, layer: InspectedLayer, picture: LayerPicture | None) -> None:
    name = "\n".join(wrap(escaped(layer.name).replace(" · ", " "), NAME))
    text = f"{name}\n{escaped(layer.family)}\nformula {layer.formula:.0e}"
    if picture is not None:
        told = f"First: length of what a token contributes to {picture.onto}, in its unit"
        text += "\n" + "\n".join(wrap(told, NAME + 4))
    axes.annotate(
        text,
        (0, 0.5),
        xytext=(-56, 0),
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
