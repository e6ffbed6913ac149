"""The widget: the content of a page, as bytes, and a picture where no widget runs."""

import re

import numpy as np
import pytest

import dsf
from dsf.report import page as widget
from dsf.report.content import content
from dsf.report.viewer import EXPLORER, file_of

anywidget = pytest.importorskip("anywidget", reason='needs pip install "dsf-toolkit[notebooks]"')


@pytest.fixture
def shown(inspected):
    return inspected(dsf.mixers.SoftmaxAttention, dsf.mixers.DeltaNet, words="abcdefghi")


def test_maps_travel_as_bytes_beside_the_state_and_come_back(shown):
    from ipywidgets.widgets.widget import _put_buffers, _remove_buffers

    made = dsf.show(shown)
    state, paths, buffers = _remove_buffers(made.get_state())
    layers = made.content["layers"]
    maps = sum(len(layer["maps"]) for layer in layers)
    assert len(buffers) == 2 * maps + len(layers)
    assert "codes" not in state["content"]["layers"][0]["maps"][0]["view"]
    _put_buffers(state, paths, buffers)
    assert state["content"] == content(shown)


def test_chosen_layers_are_shown(shown):
    assert dsf.show(shown, layers=-1).content["layers"] == content(shown[1:])["layers"]


def test_the_module_is_all_there_is(shown):
    """One export, nothing fetched, every part of the page in it."""
    module = dsf.show(shown)._esm
    assert module.count("export default") == 1
    assert not re.search(r"https?:|\bimport\b|innerHTML|\beval\(", module)
    code = [line.strip() for name in EXPLORER for line in file_of(f"{name}.js").splitlines()]
    assert all(line in module for line in code if line.endswith((";", "{")) and line[0] != "/")
    assert "--paper" in module


def test_a_saved_notebook_keeps_a_picture(shown):
    bundle, _ = dsf.show(shown)._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_the_picture_shows_what_the_map_holds(of, softmax):
    """A map of ones on its first column: a warm stripe at the left, nothing cool."""
    from io import BytesIO

    from matplotlib.image import imread

    scores = np.full((6, 6), -1000.0)
    scores[:, 0] = 0
    bundle, _ = dsf.show(of([softmax(scores)]))._repr_mimebundle_()
    pixels = imread(BytesIO(bundle["image/png"]))[..., :3]
    warm = (pixels[..., 0] > pixels[..., 2] + 0.3).sum(axis=0)
    cool = (pixels[..., 2] > pixels[..., 0] + 0.3).sum()
    columns = np.flatnonzero(warm > 40)
    assert 24 <= np.ptp(columns) + 1 <= 30  # a sixth of 160 pixels
    assert cool == 0


def test_without_the_library_the_cure_is_named(shown, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "anywidget", None)
    widget.explorer.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r'pip install "dsf-toolkit\[notebooks\]"'):
        dsf.show(shown)
