"""Pictures: signed colours about zero, odd cells apart, tokens never taken for formulas."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import dsf
from dsf.report import draw_grid, draw_map
from dsf.report.figure import MASKED_COLOUR, NOT_FINITE


def pixels(map, masked=None):
    """The colours of a map's cells, as drawn."""
    size = map.shape[0]
    figure = Figure(figsize=(1, 1), dpi=size * 10)
    axes = figure.add_axes((0, 0, 1, 1))
    draw_map(axes, map, title="", masked=masked)
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
        draw_map(Figure().subplots(), map, title="")


def test_a_grid_of_all_layers_is_written(inspected, reading, tmp_path):
    words = [*reading.hostile, "k01"]
    inspection = inspected(dsf.mixers.DeltaNet, dsf.mixers.SelectiveStateSpace, words=words)
    path = draw_grid(inspection, tmp_path / "maps.png", most=2)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 5000


def test_chosen_layers_are_drawn(inspected, tmp_path):
    inspection = inspected(dsf.mixers.DeltaNet, dsf.mixers.SelectiveStateSpace)
    chosen = draw_grid(inspection, tmp_path / "chosen.png", layers=0)
    alone = draw_grid(inspection[:1], tmp_path / "alone.png")
    whole = draw_grid(inspection, tmp_path / "whole.png")
    assert chosen.read_bytes() == alone.read_bytes() != whole.read_bytes()
    with pytest.raises(dsf.inspection.InspectionError, match="none of the 2 layers"):
        draw_grid(inspection, tmp_path / "none.png", layers=7)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved."""
    figures = []
    kept = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *to, **how: figures.append(self) or kept(self, *to, **how)
    )
    return figures


def test_every_map_names_queries_and_keys_and_has_a_colour_bar(of, softmax, tmp_path, drawn):
    scores = torch.randn(30, 30, generator=torch.Generator().manual_seed(0))
    draw_grid(of([softmax(scores)]), tmp_path / "maps.png")
    (axes,) = drawn[0].axes
    (bar,) = axes.child_axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("key →", "← query")
    texts = [text.get_text() for text in bar.texts]
    assert texts[0] == "0"
    weights = torch.softmax(scores.double().masked_fill(torch.ones(30, 30).triu(1) > 0, -np.inf), 1)
    inner = weights.numpy()[np.tri(30, 30, -1, dtype=bool) & (np.arange(30) > 0)]
    end = max(np.quantile(inner, 0.98), inner.max() / 16)
    assert texts[1] == f"≥ {end:.2g}"
    assert axes.images[0].norm.vmin == 0
    assert axes.images[0].norm(end / 4) == pytest.approx(0.5)


def test_a_signed_map_has_both_ends(inspected, tmp_path, drawn):
    draw_grid(inspected(dsf.mixers.DeltaNet), tmp_path / "maps.png", most=1)
    texts = [text.get_text() for text in drawn[0].axes[0].child_axes[0].texts]
    assert texts[0].startswith("−")
    norm = drawn[0].axes[0].images[0].norm
    assert norm(0.0) == pytest.approx(0.5)
    assert norm(-norm.vmax / 4) == pytest.approx(0.25)


def test_all_heads_of_a_layer_fill_lines(of, tmp_path, drawn):
    rng = torch.Generator().manual_seed(0)
    parts = (torch.randn(1, 7, 5, 2, generator=rng) for _ in range(3))
    mixer = dsf.mixers.SoftmaxAttention(**dict(zip(("query", "key", "value"), parts, strict=True)))
    draw_grid(of([mixer]), tmp_path / "maps.png", most=None, across=3)
    titles = [axes.get_title() for axes in drawn[0].axes if axes.axison]
    assert titles == [f"head {k}" for k in range(7)]
    with pytest.raises(ValueError, match="'across' must be at least 1"):
        draw_grid(of([mixer]), tmp_path / "maps.png", across=0)
    with pytest.raises(ValueError, match="'most' must be at least 1"):
        draw_grid(of([mixer]), tmp_path / "maps.png", most=0)


@pytest.mark.parametrize(("ending", "begins"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_papers_get_vectors(inspected, tmp_path, ending, begins):
    path = draw_grid(inspected(dsf.mixers.DeltaNet), tmp_path / f"maps.{ending}", most=1)
    assert path.read_bytes().startswith(begins)
