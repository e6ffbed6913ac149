"""Sheets in pixels: what matplotlib draws of the same, cells as they are, and the dots per inch."""

import base64
import re
import time
from io import BytesIO

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import FuncNorm
from PIL import Image

from dsf.report.figure import (
    MASKED,
    MASKED_COLOUR,
    NOT_FINITE,
    ODD,
    Cells,
    Sheet,
    Words,
    broken,
    palette,
    shaded,
)
from dsf.report.plot.charts import SIGNED


@pytest.fixture
def sheet():
    """Cells and texts of every kind."""
    found = Sheet(3.0, 2.0, dpi=80)
    rng = np.random.default_rng(0)
    cells = rng.integers(53, 254, (8, 8)).astype(np.uint8)
    found.cells.append(Cells(cells, 1.0, 0.5, 1.0, 1.0))
    found.words += [
        Words("head 3", 1.5, 0.3, size=9.0),
        Words("← query", 0.85, 1.0, size=8.0, turned=True),
        Words("token", 1.5, 1.55, size=7.0, align="right", turned=True),
        Words("right", 0.8, 0.5, size=10.0, align="right"),
        Words("left", 2.1, 0.7, size=10.0, align="left"),
    ]
    found.write_lines(["model.layers.0", "$x^2$"], 0.1, 1.7, size=8.0, align="left")
    return found


def colours(picture):
    return np.asarray(picture.convert("RGB")).astype(float)


def by_matplotlib(sheet):
    figure = sheet.figure()
    figure.set_dpi(sheet.dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(float)


def ends(image):
    """The first and the last row and column with ink."""
    rows, columns = (np.flatnonzero((image < 200).any(axis=(axis, 2))) for axis in (1, 0))
    return np.array([rows[0], rows[-1], columns[0], columns[-1]])


def test_cells_are_those_that_matplotlib_draws(sheet):
    ours, theirs = colours(sheet.picture()), by_matplotlib(sheet)
    assert ours.shape == theirs.shape == (160, 240, 3)
    assert (ours[40:120, 80:160] == theirs[40:120, 80:160]).all()


def test_texts_stand_where_matplotlib_writes_them(sheet):
    for words in sheet.words:
        alone = Sheet(3.0, 2.0, dpi=160)
        alone.words.append(words)
        ours, theirs = colours(alone.picture()), by_matplotlib(alone)
        assert np.abs(ends(ours) - ends(theirs)).max() <= 2, words
        assert (255 - ours).sum() == pytest.approx((255 - theirs).sum(), rel=0.05), words


def test_a_file_has_its_size_in_inches(sheet, tmp_path):
    sheet.save(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as found:
        assert found.size == (240, 160)
        assert found.info["dpi"] == pytest.approx((80, 80), abs=0.1)
        assert (colours(found) == colours(sheet.picture())).all()


def test_cells_stay_sharp_in_vector_formats(sheet, tmp_path):
    sheet.save(tmp_path / "sheet.svg")
    text = (tmp_path / "sheet.svg").read_text(encoding="utf-8")
    (data,) = re.findall(r"base64,([^\"]+)", text)
    with Image.open(BytesIO(base64.b64decode(data))) as found:
        cells = colours(found)
    assert (cells == palette()[sheet.cells[0].colours]).all()


def test_an_unknown_ending_is_refused(sheet, tmp_path):
    with pytest.raises(ValueError, match="not supported"):
        sheet.save(tmp_path / "sheet.xyz")


def test_shades_are_those_of_the_colour_scale():
    weights = np.linspace(-1.5, 1.5, 301)[None]
    found = palette()[shaded(weights, np.zeros_like(weights, dtype=bool), 1.0)][0]
    root = FuncNorm((lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: x * np.abs(x)), -1, 1)
    expected = SIGNED(root(np.clip(weights, -1, 1)))[0, :, :3]
    assert np.abs(found / 255 - expected).max() < 0.025


def test_masked_and_odd_cells_have_numbers_of_their_own():
    weights = np.array([[0.0, np.nan, -np.inf, 0.0]])
    found = shaded(weights, np.array([[True, False, True, False]]), 1.0)[0]
    assert found.tolist() == [MASKED, ODD, ODD, 153]
    named = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in palette()]
    assert (named[MASKED], named[ODD], named[50]) == (MASKED_COLOUR, NOT_FINITE, "#ffffff")


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("model.layers.0.self_attn", ["model.layers.0.self_attn"]),
        ("llama · model.layers.0", ["llama", "model.layers.0"]),
        ("a" * 30, ["a" * 26, "a" * 4]),
        ("", [""]),
    ],
)
def test_names_are_broken_behind_dots(name, lines):
    assert broken(name, 26) == lines


def test_many_maps_take_less_than_a_second():
    """72 maps with their texts; with axes for each they took four seconds."""
    begun = time.process_time()
    large, cells = Sheet(17.0, 30.0, dpi=160), np.zeros((256, 256), dtype=np.uint8)
    for k in range(72):
        left, top = 2.0 + k % 6 * 2.4, k // 6 * 2.4
        large.cells.append(Cells(cells, left, top, 2.0, 2.0))
        for text in (f"head {k}", "key →", "0", f"≥ {k / 7:.2g}"):
            large.words.append(Words(text, left, top, size=9.0))
    large.picture().save(BytesIO(), "png", compress_level=3)
    assert time.process_time() - begun < 1.0
