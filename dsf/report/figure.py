"""``draw_grid``: a picture with one row of maps for every layer.

The rows are on a ``Sheet``: pictures of cells and texts at places in inches, in a palette of 8-bit
colours. A figure with axes for every map takes ten times as long: each brings ticks, spines and
transforms of its own. Here every text that recurs is drawn once, and cells are copied into the
picture. Characters that no font has are written as their numbers: matplotlib draws empty boxes for
them, mostly of Chinese, Japanese or Korean.
"""

import re
from collections.abc import Sequence
from functools import cache, lru_cache, partial
from math import ceil
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from PIL import Image

from dsf.inspection import InspectedLayer, Inspection
from dsf.report.content import at_a_time, within_memory
from dsf.report.escaping import escaped
from dsf.report.layer_content import LayerPicture, layer_picture
from dsf.report.selection import select, texts_of, why_not_in_order
from dsf.report.views import MapView, views
from dsf.runtime.argument_checks import checked
from dsf.runtime.files import replace_file
from dsf.runtime.shapes import at_least
from dsf.runtime.threads import each_in_parallel

MASKED_COLOUR = "#e7e3da"
NOT_FINITE = "#96be00"
# The colours of the page: cool for negative weights, the background at zero, warm for positive.
COOL = ["#103e78", "#3879b5", "#7daed5", "#c4dbec"]
WARM = ["#fbd6b8", "#f49d6b", "#d65430", "#831816"]
SHADES = [*COOL, "#f6f5f1", *WARM]

WHITE, MASKED, ODD = 50, 51, 52
"""Numbers of colours. Those up to ``WHITE`` are greys, from black on."""

LEVELS, ZERO = 100, 153
"""Shades of either sign, and the number of the weight zero, in the middle of all."""

Colours = UInt8[np.ndarray, "rows columns"]


def palette() -> UInt8[np.ndarray, "colours 3"]:
    greys = np.repeat(np.linspace(0, 1, WHITE + 1)[:, None], 3, axis=1)
    found = LinearSegmentedColormap.from_list("signed", SHADES, N=2 * LEVELS + 1)
    shades = found(np.arange(2 * LEVELS + 1))[:, :3]
    single = [to_rgb(MASKED_COLOUR), to_rgb(NOT_FINITE)]
    return np.rint(255 * np.concatenate([greys, single, shades])).astype(np.uint8)


def shaded(
    weights: Float[np.ndarray, "rows columns"],
    masked: Bool[np.ndarray, "rows columns"],
    reach: float,
) -> Colours:
    """The colour of every weight by its square root, full from the magnitude ``reach`` on."""
    odd = ~np.isfinite(weights)
    share = np.minimum(np.abs(weights) / reach, 1)
    if odd.any():
        share[odd] = 0
    colours = np.rint(ZERO + LEVELS * np.copysign(np.sqrt(share), weights)).astype(np.uint8)
    colours[masked] = MASKED
    colours[odd] = ODD
    return colours


def ramp(*, signed: bool) -> Colours:
    """One row with every shade, from the least to the most: the colours of a colour bar."""
    return np.arange(ZERO - LEVELS * signed, ZERO + LEVELS + 1, dtype=np.uint8)[None]


FIRST = "DejaVu Sans"  # part of matplotlib
FURTHER = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK TC", "Noto Sans CJK KR",
    "Source Han Sans", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "Droid Sans Fallback", "IPAGothic", "Hiragino Sans", "Hiragino Sans GB", "PingFang SC",
    "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Noto Sans",
    "Arial Unicode MS",
)  # fmt: skip


@cache
def families() -> tuple[str, ...]:
    """The families to write with, the first choice first: that of matplotlib, and what it lacks."""
    known = {font.name for font in fontManager.ttflist}
    return (FIRST, *(name for name in FURTHER if name in known))


@cache
def _characters() -> frozenset[int]:
    files = (findfont(FontProperties(family=name)) for name in families())
    return frozenset[int]().union(*(get_font(file).get_charmap() for file in files))


def written(text: str, *, most: int | None = None) -> str:
    r"""Return ``text`` as it can be drawn, shortened to ``most`` characters.

    >>> written("a\u0378b")
    'aU+0378b'
    """
    known = _characters()
    pieces = [
        each if ord(each) in known or each.isspace() else f"U+{ord(each):04X}" for each in text
    ]
    if most is None or sum(map(len, pieces)) <= most:
        return "".join(pieces)
    while sum(map(len, pieces)) >= most:
        pieces.pop()
    return "".join(pieces) + "…"


POINTS = 72  # of an inch
LEADING = 1.2  # from one line to the next, in sizes of the font
HALF = 0.36  # share of the font size, from the middle of letters down to their baseline
PACKED = 3  # level of deflate: a tenth more bytes than by default, in half of the time
BEFORE = {"left": 0.0, "center": 0.5, "right": 1.0}


class Cells(NamedTuple):
    colours: Colours
    left: float
    top: float
    wide: float
    high: float


class Words(NamedTuple):
    """One line of text, whose end ``align`` is at ``x``, or at ``y`` if it is turned upwards.

    The other of the two is the middle of its letters.
    """

    text: str
    x: float
    y: float
    size: float
    align: str = "center"
    turned: bool = False


class Sheet:
    def __init__(self, wide: float, high: float, *, dpi: int) -> None:
        self.wide, self.high, self.dpi = wide, high, dpi
        self.cells: list[Cells] = []
        self.words: list[Words] = []

    def write_lines(self, lines: list[str], x: float, y: float, *, size: float, align: str) -> None:
        """Add lines of text, ``y`` in the middle of all."""
        apart = LEADING * size / POINTS
        first = y - apart * (len(lines) - 1) / 2
        for k, line in enumerate(lines):
            self.words.append(Words(line, x, first + k * apart, size, align))

    def save(self, path: Path) -> None:
        """Write the sheet; the ending of ``path`` selects the format."""
        if path.suffix.lower() == ".png":
            self.picture().save(path, dpi=(self.dpi, self.dpi), compress_level=PACKED)
        else:
            self.figure().savefig(path, dpi=self.dpi)

    def picture(self) -> Image.Image:
        size = (round(self.high * self.dpi), round(self.wide * self.dpi))
        pixels = np.full(size, WHITE, dtype=np.uint8)
        for words in self.words:
            self._stamp(pixels, words)
        for cells in self.cells:
            top, left = round(cells.top * self.dpi), round(cells.left * self.dpi)
            high, wide = (max(round(side * self.dpi), 1) for side in (cells.high, cells.wide))
            rows, columns = (
                np.arange(many) * count // many
                for many, count in zip((high, wide), cells.colours.shape, strict=True)
            )
            pixels[top : top + high, left : left + wide] = cells.colours[np.ix_(rows, columns)]
        found = Image.fromarray(pixels)
        found.putpalette(palette().tobytes())
        return found

    def _stamp(self, pixels: UInt8[np.ndarray, "high wide"], words: Words) -> None:
        ink, base = inked(words.text, words.size, self.dpi)
        across = -BEFORE[words.align] * ink.shape[1]
        down = HALF * words.size / POINTS * self.dpi - base
        if words.turned:
            ink = np.rot90(ink)
            across, down = down, -across - ink.shape[0]
        left, top = round(words.x * self.dpi + across), round(words.y * self.dpi + down)
        ink = ink[max(-top, 0) :, max(-left, 0) :]
        place = pixels[max(top, 0) :, max(left, 0) :][: ink.shape[0], : ink.shape[1]]
        np.minimum(place, ink[: place.shape[0], : place.shape[1]], out=place)

    def figure(self) -> Figure:
        """The sheet as texts and images with a pixel for every cell, for formats of vectors."""
        found = Figure(figsize=(self.wide, self.high))
        axes = found.add_axes((0, 0, 1, 1), xlim=(0, self.wide), ylim=(self.high, 0))
        axes.set_axis_off()
        colours = palette()
        for each in self.cells:
            sides = (each.left, each.left + each.wide, each.top + each.high, each.top)
            axes.imshow(
                colours[each.colours],
                extent=sides,
                aspect="auto",
                interpolation="none",  # keeps every cell sharp
            )
        axes.set(xlim=(0, self.wide), ylim=(self.high, 0))
        for words in self.words:
            below = HALF * words.size / POINTS
            axes.text(
                words.x + below * words.turned,
                words.y + below * (not words.turned),
                words.text,
                ha=words.align,
                va="baseline",
                rotation=90 if words.turned else 0,
                rotation_mode="anchor",
                fontsize=words.size,
                family=families(),
                parse_math=False,
            )
        return found


@lru_cache(1024)
def inked(text: str, size: float, dpi: int) -> tuple[UInt8[np.ndarray, "high wide"], int]:
    """Return the greys of one line of text, and the row of its baseline."""
    em = size / POINTS * dpi
    base = ceil(1.2 * em)
    font = FontProperties(family=families(), size=size)
    drawing: Any = RendererAgg(ceil((len(text) + 1) * em), 2 * base, dpi)  # type: ignore[no-untyped-call]
    drawing.draw_text(drawing.new_gc(), 0, base, text, font, 0)
    opacity = np.asarray(drawing.buffer_rgba())[..., 3]
    wide = int(np.flatnonzero(opacity.any(axis=0)).max(initial=0)) + 1
    return WHITE - (opacity[:, :wide] // (255 // WHITE)).clip(max=WHITE), base


def broken(name: str, most: int) -> list[str]:
    """Break a dotted name into lines of at most ``most`` characters, as it can be drawn.

    The name of a model before that of its layer has lines of its own.

    >>> broken("decoder.block.0.layer.1.EncDecAttention", 26)
    ['decoder.block.0.layer.1.', 'EncDecAttention']
    """
    lines: list[str] = []
    for piece_of_name in written(escaped(name)).split(" · "):
        lines.append("")
        for part in re.findall(r"[^.]*\.?", piece_of_name):
            for piece in wrap(part, most):
                if len(lines[-1]) + len(piece) > most:
                    lines.append("")
                lines[-1] += piece
    return lines


LABELLED, LONGEST_LABEL = 40, 10
Labels = tuple[list[str], float]


def labels_of(tokens: Sequence[str]) -> Labels:
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


@checked
def draw_grid(inspection: Inspection, path: str | Path, *, most: int | None = 6) -> Path:
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

    Raises:
        MapTooLarge: if drawing one of the layers would take more memory than there is.
        ValueError: if the inspection has no layer, ``most`` is less than 1, or the ending is not a
            known format.
    """
    if not inspection.layers:
        raise ValueError("draw_grid: the inspection has no layer, so there is nothing to draw.")
    if most is not None:
        at_least(1, "draw_grid", "most", most)
    with within_memory("draw_grid", inspection, whole=False):
        sheet = sheet_of([inspection], most=most)
    return replace_file(path, sheet.save)


def sheet_of(inspections: Sequence[Inspection], *, most: int | None, dpi: int = DPI) -> Sheet:
    drawn = [layer for inspection in inspections for layer in inspection]
    of_layers = each_in_parallel(partial(_maps, most=most), drawn, most=at_a_time(drawn))
    rows = list(of_layers)
    widest = max(min(len(maps), LONGEST_LINE) for _, of_samples in rows for maps in of_samples)
    sheet = Sheet(LEFT + widest * (MAP + GAP), GAP / 2, dpi=dpi)
    owners = [inspection for inspection in inspections for _ in inspection]
    for inspection, layer, (picture, of_samples) in zip(owners, drawn, rows, strict=True):
        for maps in of_samples:
            sample = maps[0].sample
            words = _name(layer, picture, sample if len(of_samples) > 1 else None)
            labels = _labels(inspection, layer, sample)
            for at in range(0, len(maps), LONGEST_LINE):
                line = maps[at : at + LONGEST_LINE]
                _draw_line(sheet, line, words, labels, begins=at == 0)
    return sheet


def _labels(inspection: Inspection, layer: InspectedLayer, sample: int) -> Labels | None:
    """The texts of the tokens of a map; None where they are too long, or unknown."""
    whose = texts_of(inspection, layer, layer.row_input)
    texts = inspection.tokens if whose else None
    if whose == "decoder":
        texts = inspection.decoder_tokens
    words = texts[sample] if texts is not None and sample < len(texts) else ()
    is_named = words and len(words) <= LABELLED and not why_not_in_order(layer)
    return labels_of(words) if is_named else None


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


def _draw_line(
    sheet: Sheet, maps: list[MapView], name: list[str], labels: Labels | None, *, begins: bool
) -> None:
    """Maps side by side at the end of the sheet; with its name where they begin a sample."""
    top = sheet.high + ABOVE
    high = max(_sides(view)[0] for view in maps)
    if begins:
        sheet.write_lines(name, NAMES_END, top + high / 2, size=TITLE, align="right")
    ends = [
        _draw(sheet, view, None if at else labels, LEFT + at * (MAP + GAP), top, outer=not at)
        for at, view in enumerate(maps)
    ]
    least = len(name) * LEADING * TITLE / POINTS - ABOVE
    sheet.high = max(*ends, top + least) + BELOW


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
    sheet.cells.append(Cells(shaded(view.weights, view.masked, reach), left, top, wide, high))
    name = written(view.label.removeprefix(f"sample {view.sample}, "))
    sheet.words.append(Words(name, left + MAP / 2, top - 0.33, TITLE))
    _draw_bar(sheet, view, reach, left, top)
    texts = 0.0
    if labels is not None and (len(labels[0]),) * 2 == view.weights.shape:
        texts = _name_cells(sheet, labels, left, top)
    end = top + high + texts + 0.12
    sheet.words.append(Words("key →", left + wide / 2, end, NAMED))
    if outer:
        query = Words("← query", left - texts - 0.12, top + high / 2, NAMED, turned=True)
        sheet.words.append(query)
    return end


def _draw_bar(sheet: Sheet, view: MapView, reach: float, left: float, top: float) -> None:
    start, share = (0.28, 0.42) if view.signed else (0.16, 0.56)
    bar, wide = left + start * MAP, share * MAP
    sheet.cells.append(Cells(ramp(signed=view.signed), bar, top - 0.13, wide, 0.07))
    cut = "≥ " if view.scale > reach else ""
    least = f"−{reach:.2g}" if view.signed else "0"
    sheet.words += [
        Words(least, bar - 0.045, top - 0.095, ENDS, "right"),
        Words(f"{cut}{reach:.2g}", bar + wide + 0.045, top - 0.095, ENDS, "left"),
    ]


def _name_cells(sheet: Sheet, labels: Labels, left: float, top: float) -> float:
    """Write the token labels to the left of and below a map; return the room they take."""
    texts, size = labels
    for k, text in enumerate(texts):
        middle = (k + 0.5) * MAP / len(texts)
        sheet.words += [
            Words(text, left - 0.03, top + middle, size, "right"),
            Words(text, left + middle, top + MAP + 0.03, size, "right", turned=True),
        ]
    return max(inked(text, size, sheet.dpi)[0].shape[1] / sheet.dpi for text in texts) + 0.03


def _name(layer: InspectedLayer, picture: LayerPicture | None, sample: int | None) -> list[str]:
    found = [
        *broken(layer.name, NAME),
        written(escaped(layer.family)),
        f"formula {layer.formula:.0e}",
    ]
    if sample is not None:
        found.append(f"sample {sample}")
    if picture is not None:
        legend = f"First: length of what a token contributes to {picture.onto}, in its unit"
        found += wrap(legend, NAME + 4)
    return found
