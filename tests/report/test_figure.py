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
