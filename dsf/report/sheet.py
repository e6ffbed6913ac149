"""``Sheet``: pictures of cells and texts at places in inches, in a palette of 8-bit colours.

A figure with axes for every map takes ten times as long: each brings ticks, spines and transforms
of its own. Here every text that recurs is drawn once, and cells are copied into the picture.
Characters that no font has are written as their numbers: matplotlib draws empty boxes for them,
mostly of Chinese, Japanese or Korean.
"""

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from math import ceil
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from PIL import Image

from dsf.report.escaping import escaped

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
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans CJK TC",
    "Noto Sans CJK KR",
    "Source Han Sans",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "IPAGothic",
    "Hiragino Sans",
    "Hiragino Sans GB",
    "PingFang SC",
    "Apple SD Gothic Neo",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "Noto Sans",
    "Arial Unicode MS",
)


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
PIXELS = ("png", "jpg", "jpeg", "tif", "tiff", "webp")
BEFORE = {"left": 0.0, "center": 0.5, "right": 1.0}


@dataclass(frozen=True)
class Cells:
    colours: Colours
    left: float
    top: float
    wide: float
    high: float


@dataclass(frozen=True)
class Words:
    """One line of text; ``y`` is the middle of its letters, or ``x`` where it is turned."""

    text: str
    x: float
    y: float
    size: float
    align: str
    turned: bool


class Sheet:
    def __init__(self, wide: float, high: float, *, dpi: int) -> None:
        self.wide, self.high, self.dpi = wide, high, dpi
        self.cells: list[Cells] = []
        self.words: list[Words] = []

    def draw(self, colours: Colours, left: float, top: float, wide: float, high: float) -> None:
        self.cells.append(Cells(colours, left, top, wide, high))

    def write(
        self,
        text: str,
        x: float,
        y: float,
        *,
        size: float,
        align: str = "center",
        turned: bool = False,
    ) -> None:
        """Add one line of text.

        Args:
            size: of the font, in points.
            align: whether ``x`` is the ``left`` end of the text, its ``center`` or its ``right``
                end; of a turned text, which is read upwards, the same of ``y``.
        """
        self.words.append(Words(text, x, y, size, align, turned))

    def write_lines(self, lines: list[str], x: float, y: float, *, size: float, align: str) -> None:
        """Add lines of text, ``y`` in the middle of all."""
        apart = LEADING * size / POINTS
        first = y - apart * (len(lines) - 1) / 2
        for k, line in enumerate(lines):
            self.write(line, x, first + k * apart, size=size, align=align)

    def save(self, path: Path) -> None:
        """Write the sheet; the ending of ``path`` selects the format."""
        if path.suffix[1:].lower() in PIXELS:
            picture = self.picture()
            if path.suffix.lower() != ".png":
                picture = picture.convert("RGB")
            picture.save(path, dpi=(self.dpi, self.dpi), compress_level=PACKED)
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
    drawing: Any = RendererAgg(ceil((len(text) + 1) * em), 2 * base, dpi)  # type: ignore[no-untyped-call]
    drawing.draw_text(drawing.new_gc(), 0, base, text, _font(size), 0)
    opacity = np.asarray(drawing.buffer_rgba())[..., 3]
    wide = int(np.flatnonzero(opacity.any(axis=0)).max(initial=0)) + 1
    return WHITE - (opacity[:, :wide] // (255 // WHITE)).clip(max=WHITE), base


def width(text: str, size: float, dpi: int) -> float:
    return inked(text, size, dpi)[0].shape[1] / dpi


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


@cache
def _font(size: float) -> FontProperties:
    return FontProperties(family=families(), size=size)
