"""What an inspection shows, and that its copies are as good as itself."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection import (
    InspectedLayer,
    Inspection,
    InspectionError,
    ReconstructionError,
    Unsupported,
)


@pytest.fixture(scope="module")
def inspection():
    torch.manual_seed(0)
    model = nn.Sequential(nn.GRU(3, 4, num_layers=2, batch_first=True))
    return dsf.inspect(model, torch.randn(2, 5, 3), tokens=[["a", "b", "c", "d", "<e>"]] * 2)


def test_it_is_a_sequence_of_layers(inspection):
    assert isinstance(inspection, Inspection)
    assert len(inspection) == 2
    assert list(inspection) == [inspection[0], inspection[1]]
    assert list(inspection[:1]) == [inspection[0]]
    assert isinstance(inspection[:1], Inspection)
    assert isinstance(inspection[-1], InspectedLayer)
    assert inspection.model == "Sequential"
    assert inspection.tokens[1][4] == "<e>"


def test_what_the_run_depends_on(inspection):
    assert inspection.environment["torch"] == torch.__version__
    assert inspection.environment["dtype"] == "float32"
    assert inspection.environment["device"] == "cpu"
    assert set(inspection.environment) >= {"dsf", "python"}


def test_text(inspection):
    first, second, third = repr(inspection).splitlines()
    assert first == "Inspection(Sequential: 2 layers)"
    assert second.startswith("  0[layer 0]  gru as GRU, formula ")
    assert third.startswith("  0[layer 1]  gru as GRU, formula ")
    assert repr(inspection[1]).startswith("InspectedLayer(0[layer 1]: gru as GRU, formula ")


def test_of_a_folder_its_text_names_the_last_part_alone(inspection):
    here = replace(inspection, model="/home/somebody/models/llama")
    assert repr(here).startswith("Inspection(llama: 2 layers)")
    assert here.model == "/home/somebody/models/llama"


def test_tables_for_notebooks_escape_what_they_show(inspection):
    page = inspection._repr_html_()
    assert page.count("<tr>") == 3
    assert "<td>2 samples × 4 channels</td><td>5</td>" in page
    layer = replace(inspection[0], name="<i>")
    missed = Unsupported("<script>", "k", "<b>why</b>")
    hostile = Inspection((layer,), (missed,), model="<img>")._repr_html_()
    assert "<i>" not in hostile
    assert "<script>" not in hostile
    assert "<img>" not in hostile
    assert "&lt;b&gt;why&lt;/b&gt;" in hostile


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))], ids=["copy", "pickle"]
)
def test_copies_are_sealed_again_for_their_own_parts(inspection, copied):
    twin = copied(inspection)[0]
    assert torch.equal(twin.map(), inspection[0].map())
    twin.mixer.inputs.add_(1)
    with pytest.raises(ReconstructionError, match="altered"):
        twin.map()
    with pytest.raises(ReconstructionError, match="altered"):
        copied(twin).map()
    inspection[0].map()


def test_signal_through_the_map_is_the_output(inspection):
    layer = inspection[1]
    by_map = layer.map() @ layer.signal[..., 0]
    torch.testing.assert_close(by_map, dsf.respond(layer.system, layer.signal)[..., 0])
    torch.testing.assert_close(layer.map(rows=slice(1, 3)), layer.map()[..., 1:3, :])


def test_measures_of_every_map(inspection):
    table = inspection.measure()
    assert {record["layer"] for record in table} == {"0[layer 0]", "0[layer 1]"}
    assert {record["sample"] for record in table} == {0, 1}


def test_a_layer_is_in_an_inspection_by_its_name(inspection):
    first = inspection[0]
    assert first in inspection
    assert first.name in inspection
    assert "nowhere" not in inspection
    with pytest.raises(IndexError, match="layer 9"):
        inspection[9]


@pytest.mark.usefixtures("our_own_errors")
def test_options_that_cannot_be_meant_are_refused():
    model, x = torch.nn.GRU(3, 4, batch_first=True), torch.randn(1, 5, 3)
    for wrong in ("x", -1, float("nan")):
        with pytest.raises(ValueError, match="'tolerance'"):
            dsf.inspect(model, x, tolerance=wrong)
    for wrong in (3, "ab", ["ab"]):
        with pytest.raises(InspectionError, match="'tokens'"):
            dsf.inspect(model, x, tokens=wrong)
    with pytest.raises(ValueError, match="NoneType"):
        dsf.inspect(None, x)


def test_tokens_are_as_many_as_the_numbers_that_are_read():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.gru = torch.nn.Embedding(5, 3), torch.nn.GRU(3, 4)

        def forward(self, input_ids):
            return self.gru(self.embedding(input_ids).transpose(0, 1))[0]

    ids = torch.tensor([[1, 2, 3]])
    assert dsf.inspect(Model(), input_ids=ids, tokens=[["a", "b", "c"]]).tokens == (
        ("a", "b", "c"),
    )
    for wrong in ([["a", "b"]], [["a", "b", "c"]] * 2):
        with pytest.raises(InspectionError, match="1 samples"):
            dsf.inspect(Model(), input_ids=ids, tokens=wrong)


@pytest.mark.usefixtures("our_own_errors")
def test_who_is_given_something_else_than_an_inspection_says_so(inspection, tmp_path):
    for wrong in (3, None, inspection[0]):
        with pytest.raises(TypeError, match="'result'"):
            dsf.show(wrong, tmp_path / "report.html")
        with pytest.raises(TypeError, match="'inspection'"):
            dsf.report.report_state(wrong)
        with pytest.raises(TypeError, match="'table'"):
            dsf.report.plot.layers_and_heads(wrong, "half_life")
    for wrong in ([[1, 2]], torch.tensor([1, 2]), torch.rand(2, 5)):
        with pytest.raises(InspectionError, match="'tokens'"):
            inspection.heads(wrong)
