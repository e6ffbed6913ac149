"""The experiment on wires: its prompts, its ranking of edges, and a run of a few prompts."""

import json

import pytest
import torch

import dsf
from dsf.loading import load_model
from dsf.models import folder, recall
from experiments.wires import groups, run


@pytest.fixture(scope="module")
def llama():
    return load_model(folder("llama")).model


@pytest.fixture(scope="module")
def given():
    return run.prompts(4, seed=3)


def test_prompts_ask_for_a_value_that_was_shown(given):
    for tokens, place, answer, other in zip(
        *(part.tolist() for part in vars(given).values()), strict=True
    ):
        pairs = dict(
            zip(tokens[: 2 * recall.PAIRS : 2], tokens[1 : 2 * recall.PAIRS : 2], strict=False)
        )
        assert pairs[tokens[place]] == answer
        assert other in pairs.values()
        assert other != answer
        assert recall.BLANK in tokens[2 * recall.PAIRS :]


def test_edges_are_ranked_by_share_and_controls_weigh_the_same(llama, given):
    stack = dsf.stack(llama, input_ids=given.tokens)
    share = stack.attribute(lambda logits: run.margin(logits, given))
    found, controls = run.ranked(stack, given)
    for sample in range(4):
        shares = [share.edge_sums(name)[sample, w, r].item() for name, w, r in found[sample]]
        assert shares == sorted(shares, reverse=True)
        query = given.place[sample].item()
        best = max(share.edge_sums(layer.name)[sample, query].max() for layer in stack.inspection)
        assert shares[0] == pytest.approx(best.item())
        assert {written for _, written, _ in found[sample]} == {query}
        assert not set(found[sample]) & set(controls[sample])
        assert [edge[0] for edge in found[sample]] == [edge[0] for edge in controls[sample]]


def test_a_small_run_writes_its_table(monkeypatch, tmp_path):
    (tmp_path / "README.md").write_text("<!-- table -->\n<!-- end of table -->\n")
    monkeypatch.setattr(run, "FOLDER", tmp_path)
    monkeypatch.setattr(run, "NAMES", ("llama", "mamba"))
    monkeypatch.setattr("sys.argv", ["run", "--samples", "6"])
    run.main()
    llama, mamba = json.loads((tmp_path / "results.json").read_text())
    assert llama["broken"]["largest share"]["16"] > 0.8
    assert llama["broken"]["equal weight"]["1"] < 0.2
    assert run.FOLLOWS not in llama
    assert mamba[run.FOLLOWS] > 0.8
    assert "| llama | 100.0 % |" in (tmp_path / "README.md").read_text()


def test_the_page_has_the_recorded_results():
    recorded = json.loads((run.FOLDER / "results.json").read_text())
    assert run.as_table(recorded) in (run.FOLDER / "README.md").read_text()
    assert torch.tensor([each["prompts"] for each in recorded]).min() == 500


def test_all_that_a_query_reads_of_the_value_is_the_wire_of_a_mamba2():
    model, few = load_model(folder("mamba2")).model, run.prompts(4, seed=3)
    stack = dsf.stack(model, input_ids=few.tokens)
    found, controls = groups.ranked(stack, few, 4)
    for tokens, token, other, answer in zip(
        few.tokens.tolist(), found, controls, few.answer.tolist(), strict=True
    ):
        assert answer in tokens[token : token + 4]
        assert abs(token - other) >= 4
    assert groups.broken(model, stack, few, found, 4).all()
    assert not groups.broken(model, stack, few, controls, 4).any()
