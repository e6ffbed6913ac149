"""The table of families and releases: what is measured, whose fault a difference is, the page."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

import setup_environment as set_up
from benchmarks.releases import defects, environments, measuring
from benchmarks.releases.cases import FAMILIES, LENGTHS, PADDINGS, build
from benchmarks.releases.page import page, unexplained
from tests.inspection.families.tiny_models import is_older_than

PAGE = Path(__file__).resolve().parents[2] / "docs" / "releases.md"


@pytest.mark.parametrize("name", ["rwkv", "mamba2", "gpt2"])
@pytest.mark.matrix
def test_a_family_of_this_release_is_within_the_limits(name):
    runs = list(measuring.measured(name, lengths=(21,)))
    assert [(run["padding"], run["samples"]) for run in runs] == [
        *((padding, 2) for padding in PADDINGS),
        ("left", 1),
    ]
    lone = name == "mamba2" and is_older_than("5.16")
    assert [run["outcome"] for run in runs] == ["rebuilt"] * 3 + ["refused" if lone else "rebuilt"]
    assert unexplained([measuring.report(runs)]) == []


class Louder(nn.Module):
    """An output projection after which the layer is no longer what its weights say."""

    def __init__(self, projection):
        super().__init__()
        self.weight, self.bias = projection.weight, projection.bias

    def forward(self, x):
        return 1.01 * nn.functional.linear(x, self.weight, self.bias)


def test_a_layer_that_computes_something_else_is_nobody_s_but_ours(monkeypatch):
    def bent(family, **changes):
        model = build(family, **changes)
        mixer = model.backbone.layers[0].mixer
        mixer.out_proj = Louder(mixer.out_proj)
        return model

    monkeypatch.setattr(measuring, "build", bent)
    monkeypatch.setattr(defects, "build", bent)
    run = next(measuring.measured("mamba2", lengths=(21,)))
    assert run["outcome"] == "refused"
    assert run["error"] == pytest.approx(0.01 / 1.01)
    assert unexplained([measuring.report([run])]) == [run]


def ignores_padding(_, call, arguments):
    return call(input_ids=arguments["input_ids"])


def doubles_in_small_chunks(model, call, arguments):
    output = call(**arguments)
    return (output[0] * (2 if model.config.chunk_size == 8 else 1),)


def raises(*_):
    raise IndexError("no such chunk")


@pytest.mark.parametrize(
    ("behaviour", "defect"),
    [(ignores_padding, "padding"), (doubles_in_small_chunks, "chunks"), (raises, "raises")],
)
def test_a_model_that_contradicts_itself_is_at_fault(monkeypatch, behaviour, defect):
    def planted(family, **changes):
        model = build(family, **changes)
        call = model.forward
        model.forward = lambda **arguments: behaviour(model, call, arguments)
        return model

    family = FAMILIES["mamba2"]
    assert defects.fault(family, 21, "left", 2) == {"defect": None}
    monkeypatch.setattr(defects, "build", planted)
    found = defects.fault(family, 21, "left", 2)
    assert found["defect"] == defect
    if behaviour is raises:
        assert found["shown"] == "IndexError: no such chunk"
    else:
        assert found["shown"] > 0.1


def test_what_float32_layers_lose_themselves_is_told_from_a_mistake():
    model = build(FAMILIES["rwkv"])
    given = {"input_ids": measuring.inputs(FAMILIES["rwkv"], 21, "none")["input_ids"]}
    names = ["rwkv.blocks.0.attention"]
    lost = defects.rounding(model, given, names, error=1.0)
    assert lost["defect"] is None
    assert 1e-8 < lost["shown"] < 1e-6
    assert defects.rounding(model, given, names, error=lost["shown"])["defect"] == "rounding"


def test_the_page_is_that_of_its_numbers():
    reports = json.loads(PAGE.with_suffix(".json").read_text(encoding="utf-8"))
    assert PAGE.read_text(encoding="utf-8") == page(reports)
    assert unexplained(reports) == []
    newest = {run["family"] for run in reports[-1]["runs"]}
    assert newest <= set(FAMILIES)
    assert len(newest) >= 42
    lengths = {run["length"] for report in reports for run in report["runs"]}
    assert lengths == set(LENGTHS)
    for run in reports[-1]["runs"]:
        if run["outcome"] == "rebuilt":
            assert run["single"] <= 3e-6
            assert run["double"] <= FAMILIES[run["family"]].exact
            assert run["share"] > 0.1


def test_an_environment_finds_here_what_it_does_not_have(tmp_path):
    """And what is installed into it comes first, whatever is here."""
    environments.share(tmp_path)
    python = set_up.python_in(tmp_path)
    (packages,) = tmp_path.glob("lib/python*/site-packages")
    (packages / "transformers").mkdir()
    (packages / "transformers" / "__init__.py").write_text("__version__ = 'planted'")
    question = (
        "import importlib.util, transformers as found; "
        "print(found.__version__, importlib.util.find_spec('torch').origin)"
    )
    ran = subprocess.run([python, "-c", question], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["planted", torch.__file__]


def test_a_cell_shows_what_is_wrong_with_it():
    run = {"family": "rwkv", "length": 21, "padding": "none", "samples": 2, "share": 0.5}
    good = run | {"outcome": "rebuilt", "single": 2e-7, "double": 0.0}
    coarse = run | {"outcome": "outside", "single": 4e-6, "double": 2e-16, "error": 4e-6}
    refused = run | {"outcome": "refused", "error": None, "defect": "raises", "shown": "E: words"}
    reports = [
        {"transformers": release, "torch": "2", "runs": runs}
        for release, runs in (("1", [good]), ("2", [good, coarse]), ("3", [refused]), ("4", []))
    ]
    text = page(reports)
    assert (
        "| rwkv | 2e-07 / 0 | **unexplained: 4e-06 / 2e-16** | **refused: raises** | – | 0.50 |"
        in text
    )
    assert "| rwkv | 3 | does not run | raises | E: words |" in text
    assert "Of 4 inspections 2 are within the limits, 1 are not" in text
    assert unexplained(reports) == [coarse]
