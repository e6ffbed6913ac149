"""Static pictures of maps: ``draw_map`` draws one on axes of matplotlib, ``draw_grid`` writes a
picture with one row of maps for every layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.image import AxesImage
from torch import Tensor

from dsf.inspection import InspectedLayer, Inspection
from dsf.inspection.choice import Chosen
from dsf.report.escaping import escaped
from dsf.report.layer_picture import LayerPicture, layer_picture
from dsf.report.memory_needs import at_a_time, within_memory
from dsf.report.selection import (
    DECODER,
    has_texts,
    input_of_texts,
    narrowed_one,
    select,
    why_not_in_order,
)
from dsf.report.sheet import (
    LEADING,
    MASKED_COLOUR,
    NOT_FINITE,
    POINTS,
    SHADES,
    Sheet,
    broken,
    families,
    ramp,
    shaded,
    width,
    written,
)
from dsf.report.views import MapView, views, without_sample
from dsf.runtime.files import replace_file
from dsf.runtime.shapes import agree, are_texts, at_least, of_kind
from dsf.runtime.threads import each_in_parallel

LABELLED, LONGEST_LABEL = 40, 10
SIGNED = LinearSegmentedColormap.from_list("signed", SHADES)


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
        ValueError: if ``map`` is not one real matrix, or has not one token for each text.
        TypeError: if an argument is of another kind.
    """
    weights = map.numpy(force=True) if isinstance(map, Tensor) else map
    if not isinstance(weights, np.ndarray):
        raise TypeError(
            f"draw_map: 'map' must be a matrix of torch or NumPy, but it is {type(map).__name__}."
        )
    if weights.ndim != 2 or np.iscomplexobj(weights):
        raise ValueError(
            f"draw_map: 'map' must be one real matrix, but it is {weights.dtype} of shape "
            f"{weights.shape}. Pick one map, such as layer.map()[0, 3]."
        )
    of_kind("draw_map", "axes", axes, Axes, "axes of matplotlib, such as those of plt.subplots()")
    of_kind("draw_map", "title", title, str, "a text")
    if tokens is not None:
        check_texts(tokens, weights.shape)
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
    axes.set_title(written(title), fontsize=9, family=families(), parse_math=False)
    _name_tokens(axes, tokens, weights.shape)
    return image


def check_texts(tokens: Sequence[str], shape: tuple[int, ...]) -> None:
    agree("draw_map", "token", rows=shape[0], columns=shape[1])
    are_texts("draw_map", "tokens", tokens, shape[0])


def _name_tokens(axes: Axes, tokens: Sequence[str] | None, shape: tuple[int, int]) -> None:
    if tokens is None or len(tokens) > LABELLED or shape != (len(tokens), len(tokens)):
        axes.set_xticks([])
        axes.set_yticks([])
        return
    texts, size = _labels(tokens)
    how: dict[str, Any] = {"fontsize": size, "family": families(), "parse_math": False}
    axes.set_xticks(range(len(texts)), texts, rotation=90, **how)
    axes.set_yticks(range(len(texts)), texts, **how)
    axes.tick_params(length=0, pad=2)


Labels = tuple[list[str], float]


def _labels(tokens: Sequence[str]) -> Labels:
    texts = [written(escaped(token), most=LONGEST_LABEL) for token in tokens]
    return texts, min(6.0, 140 / len(texts))


SIDE = 256
NAME = 26  # characters
DPI = 160
MAP, GAP, LEFT, ABOVE, BELOW = 2.0, 0.32, 2.9, 0.45, 0.3  # inches
NAMES_END = LEFT - 0.78
THINNEST = 0.1
LONGEST_LINE = 8
NAMED, TITLE, ENDS = 8.0, 9.0, 7.5  # points


def draw_grid(
    inspection: Inspection,
    path: str | Path,
    *,
    most: int | None = 6,
    across: int = LONGEST_LINE,
    layers: Chosen = None,
    heads: Chosen = None,
) -> Path:
    """Write a picture with the maps of every layer, fit for a paper, each sample on its own lines.

    Rows are queries and columns are keys. The colours follow the square root of the weight, each
    map with a colour bar of its own, from zero where no weight is negative. They are full from a
    weight on that 98 of 100 cells do not exceed, without the diagonal and the first key; a bar that
    does not reach the largest weight ends with ``≥``. A layer whose channels have a map each begins
    with what all of them do together: how strongly every token, or group of neighbouring tokens,
    acts on every other. Maps of more than 256 tokens are pooled by magnitude with the sign kept.

    Args:
        path: the file to write; its ending selects the format: ``.png``, or for text as vectors and
            sharp cells ``.svg`` or ``.pdf``.
        most: how many maps of one sample of a layer to draw; if it has more, the heads of the
            strongest response or the channels with the most energy off the diagonal. None draws
            all heads, of more than 64 those of the strongest response.
        across: number of maps in one line.
        layers, heads: which layers to draw, and which heads or channels of each, as for
            ``show``; all by default.

    Raises:
        InspectionError: if there is no such layer or head.
        MapTooLarge: if drawing one of the layers would take more memory than there is.
        ValueError: if the inspection has no layer, ``most`` or ``across`` is less than 1, or the
            ending is not a known format.
    """
    of_kind("draw_grid", "inspection", inspection, Inspection, "what dsf.inspect returns")
    if not inspection.layers:
        raise ValueError("draw_grid: the inspection has no layer, so there is nothing to draw.")
    for name, number in (("most", most), ("across", across)):
        if number is not None or name == "across":
            at_least(1, "draw_grid", name, number)
    inspection = narrowed_one(inspection, layers, heads)
    with within_memory("draw_grid", inspection, whole=False):
        drawn = inspection.layers
        rows = list(each_in_parallel(partial(_maps, most=most), drawn, most=at_a_time(drawn)))
    source = input_of_texts(inspection)
    usual, decoder = map(_named, (inspection.tokens, inspection.decoder_tokens))

    def named_of(layer: InspectedLayer) -> Mapping[int, Labels | None]:
        if why_not_in_order(layer):
            return {}
        if layer.row_input == DECODER and inspection.decoder_tokens is not None:
            return decoder
        return usual if has_texts(layer, layer.row_input, source) else {}

    lines = [
        _Line(
            layer,
            picture,
            maps[at : at + across],
            several=len(of_samples) > 1,
            begins=at == 0,
            named=named_of(layer),
        )
        for layer, (picture, of_samples) in zip(inspection, rows, strict=True)
        for maps in of_samples
        for at in range(0, len(maps), across)
    ]
    return replace_file(path, _sheet(lines).save)


@dataclass(frozen=True)
class _Line:
    """Maps of one sample of a layer side by side.

    ``begins`` tells whether they are its first, ``named`` the texts of the tokens of a sample where
    row and column k are the k-th of them.
    """

    layer: InspectedLayer
    picture: LayerPicture | None
    maps: list[MapView]
    several: bool
    begins: bool
    named: Mapping[int, Labels | None]


def _named(tokens: Sequence[Sequence[str]] | None) -> dict[int, Labels | None]:
    """The labels of every sample; None where it is too long for them."""
    return {
        at: _labels(sample) if len(sample) <= LABELLED else None
        for at, sample in enumerate(tokens or ())
    }


def _maps(
    layer: InspectedLayer, *, most: int | None
) -> tuple[LayerPicture | None, list[list[MapView]]]:
    picture = layer_picture(layer, side=SIDE)
    found = [] if picture is None else picture.views
    if most is None:
        found = found + views(select(layer), side=SIDE)
    elif most > bool(found):
        found = found + views(select(layer, most=most - bool(found)), side=SIDE)
    samples = sorted({view.sample for view in found})
    return picture, [[view for view in found if view.sample == sample] for sample in samples]


def _sheet(lines: list[_Line]) -> Sheet:
    across = max(len(line.maps) for line in lines)
    sheet = Sheet(LEFT + across * (MAP + GAP), GAP / 2, dpi=DPI)
    for line in lines:
        top = sheet.high + ABOVE
        high = max(_sides(view)[0] for view in line.maps)
        if line.begins:
            sheet.write_lines(_name(line), NAMES_END, top + high / 2, size=TITLE, align="right")
        ends = []
        for at, view in enumerate(line.maps):
            labels = line.named.get(view.sample) if at == 0 else None
            ends.append(_draw(sheet, view, labels, LEFT + at * (MAP + GAP), top, outer=at == 0))
        least = len(_name(line)) * LEADING * TITLE / POINTS - ABOVE
        sheet.high = max(*ends, top + least) + BELOW
    return sheet


def _sides(view: MapView) -> tuple[float, float]:
    longest = max(view.weights.shape)
    high, wide = (max(MAP * side / longest, THINNEST) for side in view.weights.shape)
    return high, wide


def _draw(
    sheet: Sheet, view: MapView, labels: Labels | None, left: float, top: float, *, outer: bool
) -> float:
    """One map with its name, axes and colour bar, and where it ends; ``outer`` begins a line."""
    high, wide = _sides(view)
    reach = view.bright or 1.0
    sheet.draw(shaded(view.weights, view.masked, reach), left, top, wide, high)
    name = written(without_sample(view.label, view.sample))
    sheet.write(name, left + MAP / 2, top - 0.33, size=TITLE)
    _draw_bar(sheet, view, reach, left, top)
    texts = 0.0
    if labels is not None and (len(labels[0]),) * 2 == view.weights.shape:
        texts = _name_cells(sheet, labels, left, top)
    end = top + high + texts + 0.12
    sheet.write("key →", left + wide / 2, end, size=NAMED)
    if outer:
        sheet.write("← query", left - texts - 0.12, top + high / 2, size=NAMED, turned=True)
    return end


def _draw_bar(sheet: Sheet, view: MapView, reach: float, left: float, top: float) -> None:
    start, share = (0.28, 0.42) if view.signed else (0.16, 0.56)
    bar, wide = left + start * MAP, share * MAP
    sheet.draw(ramp(signed=view.signed), bar, top - 0.13, wide, 0.07)
    cut = "≥ " if view.scale > reach else ""
    least = f"−{reach:.2g}" if view.signed else "0"
    sheet.write(least, bar - 0.045, top - 0.095, size=ENDS, align="right")
    sheet.write(f"{cut}{reach:.2g}", bar + wide + 0.045, top - 0.095, size=ENDS, align="left")


def _name_cells(sheet: Sheet, labels: Labels, left: float, top: float) -> float:
    """Write the token labels to the left of and below a map; return the room they take."""
    texts, size = labels
    for k, text in enumerate(texts):
        middle = (k + 0.5) * MAP / len(texts)
        sheet.write(text, left - 0.03, top + middle, size=size, align="right")
        sheet.write(text, left + middle, top + MAP + 0.03, size=size, align="right", turned=True)
    return max(width(text, size, DPI) for text in texts) + 0.03


def _name(line: _Line) -> list[str]:
    layer = line.layer
    found = [
        *broken(layer.name, NAME),
        written(escaped(layer.family)),
        f"formula {layer.formula:.0e}",
    ]
    if line.several:
        found.append(f"sample {line.maps[0].sample}")
    if line.picture is not None:
        legend = f"First: length of what a token contributes to {line.picture.onto}, in its unit"
        found += wrap(legend, NAME + 4)
    return found
