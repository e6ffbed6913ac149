"""The fonts of pictures, and texts in them: what no font has is written as the number it has.

Matplotlib draws empty boxes for such characters, mostly of Chinese, Japanese or Korean.
"""

from functools import cache

from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

FIRST = "DejaVu Sans"  # comes with matplotlib
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
    """The numbers of all characters that one of the fonts has."""
    files = (findfont(FontProperties(family=name)) for name in families())
    return frozenset[int]().union(*(get_font(file).get_charmap() for file in files))


def written(text: str, *, most: int | None = None) -> str:
    r"""``text`` as it can be drawn, of at most so many characters.

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
