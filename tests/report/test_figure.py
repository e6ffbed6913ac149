"""Pictures: signed colours about zero, odd cells apart, tokens never taken for formulas."""

import re

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import dsf
from dsf.report import draw_grid
from dsf.report.figure import LEVELS, MASKED, MASKED_COLOUR, NOT_FINITE, ZERO, Sheet
from dsf.report.plot import heat_map


def pixels(map, masked=None):
    """The colours of a map's cells, as drawn."""
    size = map.shape[0]
    figure = Figure(figsize=(1, 1), dpi=size * 10)
    axes = figure.add_axes((0, 0, 1, 1))
    heat_map(map, axes=axes, masked=masked, label=None, x="", y="")
    for spine in axes.spines.values():
        spine.set_visible(False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    return drawn[5::10, 5::10]


def rgb(colour):
    return [int(colour[k : k + 2], 16) for k in (1, 3, 5)]


def test_signs_are_warm_and_cool_about_a_pale_zero():
    red, blue = pixels(torch.tensor([[1.0, -1.0], [0.0, 0.5]]))[0]
    zero = pixels(torch.tensor([[1.0, -1.0], [0.0, 0.5]]))[1, 0]
    assert red[0] > red[2] + 80
    assert blue[2] > blue[0] + 80
    assert zero.min() > 235


def test_masked_and_odd_cells_have_colours_of_their_own():
    map = torch.tensor([[1.0, 0.0], [torch.nan, 0.5]], dtype=torch.float64)
    drawn = pixels(map, masked=np.array([[False, True], [False, False]]))
    assert drawn[0, 1].tolist() == rgb(MASKED_COLOUR)
    assert drawn[1, 0].tolist() == rgb(NOT_FINITE)


@pytest.mark.usefixtures("our_own_errors")
@pytest.mark.parametrize("map", [torch.ones(2, 3, 3), torch.ones(3, 3, dtype=torch.complex64)])
def test_a_picture_wants_one_real_matrix(map):
    with pytest.raises(ValueError, match="one real matrix"):
        heat_map(map)


def test_a_grid_of_all_layers_is_written(inspected, reading, tmp_path):
    words = [*reading.hostile, "k01"]
    inspection = inspected(dsf.mixers.DeltaNet, dsf.mixers.SelectiveStateSpace, words=words)
    path = draw_grid(inspection, tmp_path / "maps.png", most=2)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 5000


@pytest.fixture
def drawn(monkeypatch):
    """The sheets that are saved."""
    sheets = []
    kept = Sheet.save
    monkeypatch.setattr(Sheet, "save", lambda self, path: sheets.append(self) or kept(self, path))
    return sheets


def texts(sheet):
    return [words.text for words in sheet.words]


def test_every_map_names_queries_and_keys_and_has_a_colour_bar(of, softmax, tmp_path, drawn):
    scores = torch.randn(30, 30, generator=torch.Generator().manual_seed(0))
    draw_grid(of([softmax(scores)]), tmp_path / "maps.png")
    (sheet,) = drawn
    map, bar = (cells.colours for cells in sheet.cells)
    assert {"key →", "← query", "0"} <= set(texts(sheet))
    weights = torch.softmax(scores.double().masked_fill(torch.ones(30, 30).triu(1) > 0, -np.inf), 1)
    inner = weights.numpy()[np.tri(30, 30, -1, dtype=bool) & (np.arange(30) > 0)]
    end = max(np.quantile(inner, 0.98), inner.max() / 16)
    assert f"≥ {end:.2g}" in texts(sheet)
    assert bar.tolist() == [list(range(ZERO, ZERO + LEVELS + 1))]
    shares = np.sqrt(np.minimum(weights.numpy() / end, 1))
    seen = np.tri(30, 30, dtype=bool)
    assert np.abs(map[seen] - (ZERO + LEVELS * shares[seen])).max() <= 0.5 + 1e-9
    assert (map[~seen] == MASKED).all()


def test_a_signed_map_has_both_ends(inspected, tmp_path, drawn):
    draw_grid(inspected(dsf.mixers.DeltaNet), tmp_path / "maps.png", most=1)
    least, most = [text for text in texts(drawn[0]) if re.fullmatch(r"[−≥ ]*[\d.e-]+", text)]
    assert least == f"−{most.removeprefix('≥ ')}"
    bar = drawn[0].cells[1].colours
    assert bar.tolist() == [list(range(ZERO - LEVELS, ZERO + LEVELS + 1))]


def heads(count, samples=1):
    rng = torch.Generator().manual_seed(0)
    parts = (torch.randn(samples, count, 5, 2, generator=rng) for _ in range(3))
    return dsf.mixers.SoftmaxAttention(**dict(zip(("query", "key", "value"), parts, strict=True)))


def test_all_heads_of_a_layer_fill_lines(of, tmp_path, drawn, monkeypatch):
    monkeypatch.setattr("dsf.report.figure.LONGEST_LINE", 3)
    mixer = heads(7)
    draw_grid(of([mixer]), tmp_path / "maps.png", most=None)
    titles = [words for words in drawn[0].words if words.text.startswith("head")]
    assert [words.text for words in titles] == [f"head {k}" for k in range(7)]
    heights = [words.y for words in titles]
    assert heights[0] == heights[2] < heights[3] == heights[5] < heights[6]
    with pytest.raises(ValueError, match="'most'"):
        draw_grid(of([mixer]), tmp_path / "maps.png", most=0)


def test_every_sample_has_lines_of_its_own_and_is_named_once(of, tmp_path, drawn):
    inspection = of([heads(3, samples=2)])
    draw_grid(inspection, tmp_path / "maps.png", most=2)
    found = texts(drawn[0])
    assert [text for text in found if "sample" in text] == ["sample 0", "sample 1"]
    assert sum(text.startswith("head") for text in found) == 4
    maps = [cells for cells in drawn[0].cells if len(cells.colours) > 1]
    assert [cells.top for cells in maps] == sorted(cells.top for cells in maps)
    assert len({cells.top for cells in maps}) == 2
    chosen = [int(text[5:]) for text in found if text.startswith("head")]
    for cells, sample, head in zip(maps, (0, 0, 1, 1), chosen, strict=True):
        order = inspection[0].map()[sample, head, -1].argsort()
        assert (np.diff(cells.colours[-1][order].astype(int)) >= 0).all()


def test_characters_that_no_font_has_are_written_as_their_numbers(of, softmax, tmp_path, drawn):
    words = ["\u0378", "é", "the"]
    draw_grid(of([softmax(torch.randn(3, 3))], words=words), tmp_path / "maps.png")
    assert [texts(drawn[0]).count(text) for text in ("U+0378", "é", "the")] == [2, 2, 2]


def test_a_short_map_is_as_high_as_its_cells_and_its_bar_stays(of, softmax, tmp_path, drawn):
    scores = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    draw_grid(of([softmax(scores, causal=False)]), tmp_path / "maps.png")
    map, bar = drawn[0].cells
    rows, columns = map.colours.shape
    assert rows < columns
    assert map.high / map.wide == pytest.approx(rows / columns)
    assert bar.top + bar.high < map.top
    assert bar.high == pytest.approx(0.07)


@pytest.mark.parametrize(("ending", "begins"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_papers_get_vectors(inspected, tmp_path, ending, begins):
    path = draw_grid(inspected(dsf.mixers.DeltaNet), tmp_path / f"maps.{ending}", most=1)
    assert path.read_bytes().startswith(begins)
