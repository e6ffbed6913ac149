"""The gauge experiment: what its three choices of states do, and that it would see a change."""

import dataclasses
import json

import pytest
import torch

from dsf.mixers import InLineAttention
from experiments import page
from experiments.gauge import reading, run
from experiments.gauge.gauges import GAUGES

INVARIANT = ("map_moved", "hankel_moved", "mass_moved")


@pytest.mark.parametrize("layer", reading.LAYERS, ids=lambda layer: layer.__name__)
def test_spectra_move_and_maps_stay(layer):
    system = reading.drawn(layer, steps=7)
    found = reading.measured(system)["gauges"]
    expected = torch.linalg.eigvals(system.A.dense()).abs().max().item()
    assert found["own states"]["moduli"][2] == pytest.approx(expected)
    assert found["undone decay"]["moduli"] == pytest.approx([1, 1, 1], abs=1e-6)
    assert found["random states"]["moduli"][2] > 1.2
    for read in found.values():
        assert max(read[what] for what in INVARIANT) < 1e-8


def test_a_map_that_did_change_is_seen(monkeypatch):
    """Twice the output, instead of other states."""
    monkeypatch.setattr(
        reading, "change_of_basis", lambda system, _: dataclasses.replace(system, C=2 * system.C)
    )
    read = reading.measured(reading.drawn(InLineAttention, steps=7))["gauges"]["own states"]
    assert [read[what] for what in INVARIANT] == pytest.approx([1, 1, 1])


def test_a_layer_that_reads_ahead_is_refused(monkeypatch):
    ahead = dataclasses.replace(
        InLineAttention.draw(torch.Generator().manual_seed(0), steps=7), causal=False
    )
    monkeypatch.setattr(InLineAttention, "draw", lambda *_, **__: ahead)
    with pytest.raises(TypeError, match="InLineAttention"):
        reading.drawn(InLineAttention, steps=7)


def test_the_page_shows_the_results():
    found = json.loads((run.FOLDER / "results.json").read_text(encoding="utf-8"))["layers"]
    assert len(found) == 10
    assert all(set(layer["gauges"]) == set(GAUGES) for layer in found.values())
    assert run.as_table(found) in (run.FOLDER / "README.md").read_text(encoding="utf-8")


def test_only_the_table_of_a_page_is_rewritten(tmp_path):
    file = tmp_path / "README.md"
    file.write_text(f"above\n{page.BEGIN}old\n{page.END}\nbelow\n", encoding="utf-8")
    page.put_into(file, page.table(["a", "b"], [["1", "2"]]))
    text = file.read_text(encoding="utf-8")
    assert text == f"above\n{page.BEGIN}| a | b |\n| --- | --- |\n| 1 | 2 |\n{page.END}\nbelow\n"


@pytest.mark.parametrize("text", ["no marks", page.BEGIN, page.END])
def test_a_page_without_marks_is_refused(tmp_path, text):
    file = tmp_path / "README.md"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="missing"):
        page.put_into(file, "table")
    assert file.read_text(encoding="utf-8") == text
