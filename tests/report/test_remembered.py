"""What the page and the picture of an inspection both need is computed once."""

import gc
from collections import Counter

import pytest

import dsf
from dsf.inspection.results.layers import InspectedLayer
from dsf.measures import norms as off_diagonal
from dsf.report import draw_grid, selection, show
from tests.inspection.families.tiny_models import build, inputs


@pytest.fixture
def counted(monkeypatch):
    calls = Counter()

    def counting(name, function):
        def call(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return call

    energies, norms = off_diagonal.off_diagonal_energy, InspectedLayer.contribution_norms
    monkeypatch.setattr(selection.measures, "off_diagonal_energy", counting("energies", energies))
    monkeypatch.setattr(InspectedLayer, "contribution_norms", counting("norms", norms))
    return calls


def test_a_layer_of_channels_is_gone_through_once(tmp_path, counted):
    inspection = dsf.inspect(build("mamba"), **inputs(9))
    show(inspection, tmp_path / "report.html")
    draw_grid(inspection, tmp_path / "maps.png")
    assert counted == {"energies": len(inspection), "norms": len(inspection)}


def test_nothing_is_kept_beyond_the_layer(tmp_path):
    inspection = dsf.inspect(build("mamba"), **inputs(9))
    gc.collect()  # layers of other tests
    before = len(selection._KNOWN)
    draw_grid(inspection, tmp_path / "maps.png")
    assert len(selection._KNOWN) == before + len(inspection)
    del inspection
    gc.collect()
    assert len(selection._KNOWN) == before
