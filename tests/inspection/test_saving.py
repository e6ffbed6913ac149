"""A saved result is the same without the model: maps, measures, and the report byte for byte."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection import InspectionError
from dsf.models import folder, recall

pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')

ELSEWHERE = """
import sys, dsf
found = dsf.load(sys.argv[1])
assert "transformers" not in sys.modules
dsf.show(found, sys.argv[2])
"""


@pytest.fixture(scope="module")
def prompt():
    return recall.draw(torch.Generator().manual_seed(0), samples=1).tokens


@pytest.mark.parametrize("name", ["qwen3_next", pytest.param("mamba", marks=pytest.mark.nightly)])
def test_a_report_from_another_process_is_byte_equal(name, prompt, tmp_path):
    found = dsf.inspect(folder(name), input_ids=prompt, checks="none")
    saved = found.save(tmp_path / "saved")
    code = [sys.executable, "-c", ELSEWHERE, saved, tmp_path / "other.html"]
    subprocess.run(list(map(str, code)), check=True)
    page = dsf.show(found, tmp_path / "page.html")
    assert page.read_bytes() == (tmp_path / "other.html").read_bytes()
    again = dsf.load(saved)
    assert again.measure().to_json() == found.measure().to_json()
    assert repr(again) == repr(found)
    for one, other in zip(found, again, strict=True):
        assert one.map().equal(other.map())
        assert one.whole.output.equal(other.whole.output)


class RunningMean(nn.Module):
    def forward(self, x):
        return x.cumsum(dim=1) / torch.arange(1, x.shape[1] + 1)[:, None]


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.mean = nn.Linear(4, 4), RunningMean()
        self.recurrent = nn.GRU(4, 4, batch_first=True, bidirectional=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        y = self.recurrent(self.mean(self.before(x)))[0]
        return self.attention(y, y, y)[0]


def test_probed_layers_and_cells_of_torch_are_loaded_as_they_were(tmp_path):
    """Their mixers and systems are not among the published architectures."""
    saved = dsf.inspect(Mixed().eval(), torch.randn(1, 6, 4))
    assert {layer.family for layer in saved} == {"probed", "gru", "multihead"}
    for before, after in zip(saved, dsf.load(saved.save(tmp_path)), strict=True):
        assert torch.equal(before.map(), after.map())


def test_an_intervention_keeps_its_effects(prompt, tmp_path):
    cut = dsf.edits.Cut(-1, query=[4, -1], key=slice(0, 3))
    result = dsf.intervene(folder("llama"), input_ids=prompt, edits=cut)
    again = dsf.load(result.save(tmp_path))
    assert again.effect(3, against=4).equal(result.effect(3, against=4))
    assert again.edits == result.edits
    assert again.output.equal(result.output)


def test_an_attribution_keeps_its_numbers(prompt, tmp_path):
    share = dsf.attribute(folder("qwen3_next"), input_ids=prompt)
    again = dsf.load(share.save(tmp_path))
    assert again.value.equal(share.value)
    for by in ("held", "direct", "gradient"):
        assert again.edge_sums(-1, by).equal(share.edge_sums(-1, by))
        torch.testing.assert_close(again.heads(by), share.heads(by), equal_nan=True)
    found, expected = (each.strongest_edges(5).to_json() for each in (again, share))
    assert found == expected[:5]
    table, other = share.to_pandas(), again.to_pandas()
    assert table.equals(other)
    whole = table.groupby("part")["share"].sum()
    number = pytest.approx(share.value.item())
    assert whole["token"] + whole["remainder"] == number
    assert whole["layer"] + whole["embedding"] + whole["remainder"] == number


def test_only_results_of_this_package_are_read(prompt, tmp_path):
    dsf.inspect(folder("llama"), input_ids=prompt, checks="none").save(tmp_path)
    file = tmp_path / "result.json"
    tree = json.loads(file.read_text("utf-8"))
    for kind in ("subprocess:Popen", "dsf.inspection.results.saving:save", "dsf.mixers:Nothing"):
        file.write_text(json.dumps({**tree, "result": {**tree["result"], "class": kind}}))
        with pytest.raises(InspectionError, match="load"):
            dsf.load(tmp_path)
    for place in (tmp_path / "nothing", folder("llama")):  # no folder, and that of a model
        with pytest.raises(FileNotFoundError, match=r"^load: .*no saved result.*save"):
            dsf.load(place)


def test_a_result_that_was_written_in_part_is_none(tmp_path, monkeypatch):
    """Numbers of the second result are not read as those of the first."""
    one, other = (
        dsf.inspect(torch.nn.LSTM(3, 4, batch_first=True), torch.ones(1, 5, 3)) for _ in range(2)
    )
    one.save(tmp_path)
    monkeypatch.setattr(type(tmp_path), "write_text", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        other.save(tmp_path)
    with pytest.raises(FileNotFoundError):
        dsf.load(tmp_path)
