"""Several inspections in one view, and verdicts that find the map they are about."""

import pytest
import torch

import dsf
from dsf.inspection.results.table import Table
from dsf.report import show
from dsf.report.content import content


def record(head=None, verdict="PROVED", layer="model.layers.0.mixer"):
    about = {} if head is None else {"head": head}
    told = {"verdict": verdict, "level": "data", "observed": 0.5, "claim": "no <b>weight</b>"}
    return {"layer": layer, **about, "property": "nonnegative", **told, "limits": ""}


def test_a_verdict_stands_beside_the_map_it_is_about(inspected):
    inspection = inspected(dsf.mixers.DeltaNet, dsf.mixers.DeltaNet)
    table = Table((record(0), record(1, "REFUTED"), record(verdict="UNKNOWN")))
    first, second = content(inspection, verdicts=table)["layers"]
    found = [[each["verdict"] for each in map["verdicts"]] for map in first["maps"]]
    assert found == [["PROVED", "UNKNOWN"], ["REFUTED", "UNKNOWN"]]
    assert first["maps"][0]["verdicts"][0]["claim"] == "no <b>weight</b>"
    assert [map["verdicts"] for map in second["maps"]] == [[], []]


def test_two_models_stand_in_one_page_under_different_names(of, reading, tmp_path):
    rng = torch.Generator().manual_seed(0)
    shown = [of([cls.draw(rng, steps=5)]) for cls in (dsf.mixers.DeltaNet, dsf.mixers.S5)]
    tables = [None, Table((record(),))]
    path = show(shown, tmp_path / "r.html", verdicts=tables)
    page = path.read_text(encoding="utf-8")
    data = reading.content(page)
    assert [model["name"] for model in data["models"]] == ["drawn/model (1)", "drawn/model (2)"]
    assert [layer["model"] for layer in data["layers"]] == [0, 1]
    assert [bool(layer["maps"][0]["verdicts"]) for layer in data["layers"]] == [False, True]
    assert page.count("<dt>model</dt>") == 2
    assert '<td>drawn/model (2)</td><th scope="row" class="name">model.layers.0.mixer' in page


def test_of_a_folder_the_page_shows_its_name_alone(of):
    mixer = dsf.mixers.DeltaNet.draw(torch.Generator().manual_seed(0), steps=3)
    assert content(of([mixer], model="/home/someone/gpt"))["models"][0]["name"] == "gpt"


@pytest.mark.usefixtures("our_own_errors")
def test_what_cannot_be_shown_is_refused_with_the_cure(inspected):
    inspection = inspected(dsf.mixers.DeltaNet)
    with pytest.raises(ValueError, match="empty list"):
        content([])
    with pytest.raises(TypeError, match="'result'"):
        dsf.show([inspection[0]])
    with pytest.raises(ValueError, match="table"):
        content([inspection, inspection], verdicts=Table(()))
