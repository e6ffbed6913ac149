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
    for tokens, place, answer, others in zip(
        *(part.tolist() for part in vars(given).values()), strict=True
    ):
        pairs = dict(
            zip(tokens[: 2 * recall.PAIRS : 2], tokens[1 : 2 * recall.PAIRS : 2], strict=False)
        )
        assert pairs[tokens[place]] == answer
        assert {answer, *others} == set(pairs.values())
        assert len(others) == recall.PAIRS - 1
        assert recall.BLANK in tokens[2 * recall.PAIRS :]


def test_the_margin_is_that_over_all_other_values(given):
    logits = torch.randn(*given.tokens.shape, 33, generator=torch.Generator().manual_seed(0))
    for sample, margin in enumerate(run.margin(logits, given).tolist()):
        shown = logits[sample, given.place[sample]].tolist()
        others = [shown[other] for other in given.others[sample].tolist()]
        expected = shown[given.answer[sample]] - sum(others) / len(others)
        assert margin == pytest.approx(expected, rel=1e-5)


def test_one_edge_is_the_wire_of_a_mamba():
    model, few = load_model(folder("mamba")).model, run.prompts(4, seed=3)
    stack = dsf.stack(model, input_ids=few.tokens)
    found, _ = run.ranked(stack, few)
    for tokens, answer, edges in zip(few.tokens.tolist(), few.answer.tolist(), found, strict=True):
        (_, _, read), *_ = edges
        assert read - tokens.index(answer) in (0, 1)  # the convolution may move it one token on
    clean, cut = run.right_without(model, few, [edges[:1] for edges in found])
    assert clean.all()
    assert cut.sum() <= 1  # a guess may be right
    others = run.beside(stack, found)
    for ((layer, place, other),), ((found_in, query, read), *_) in zip(others, found, strict=True):
        assert (layer, place) == (found_in, query)
        assert other != read
        assert other <= query
    _, kept = run.right_without(model, few, others)
    assert kept.all()


def test_the_answer_follows_the_state_once_no_convolution_holds_a_pair():
    shares = run.patched(load_model(folder("mamba2")).model, run.prompts(8, seed=3))
    assert shares[run.FOLLOWS] == 1
    assert shares["answers that stay"] == 0
    assert shares[run.AT_ONCE] < 1  # it writes a value at the next token, from its convolution


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
    monkeypatch.setattr(run, "COUNTS", (1,))
    monkeypatch.setattr("sys.argv", ["run", "--samples", "4"])
    run.main()
    llama, mamba = json.loads((tmp_path / "results.json").read_text())
    assert llama["broken"]["largest share"]["1"] > 0.7
    assert llama["broken"]["equal weight"]["1"] == 0
    assert llama["broken"][run.ASIDE] == 0
    assert run.FOLLOWS not in llama
    assert mamba[run.FOLLOWS] == 1
    assert "| llama | 100.0 % |" in (tmp_path / "README.md").read_text()


def test_the_page_has_the_recorded_results():
    recorded = json.loads((run.FOLDER / "results.json").read_text())
    assert run.as_table(recorded) in (run.FOLDER / "README.md").read_text()
    assert torch.tensor([each["prompts"] for each in recorded]).min() == 500


def test_all_that_a_query_reads_of_the_value_is_the_wire_of_a_mamba2():
    model, few = load_model(folder("mamba2")).model, run.prompts(4, seed=3)
    stack, width = dsf.stack(model, input_ids=few.tokens), run.taps(model)
    found, controls = groups.ranked(stack, few, width)
    for tokens, token, other, answer in zip(
        few.tokens.tolist(), found, controls, few.answer.tolist(), strict=True
    ):
        assert answer in tokens[max(token - 1, 0) : token + width]
        assert abs(token - other) >= width
    assert groups.broken(model, stack, few, found, width).sum() >= 3  # a guess may be right
    assert not groups.broken(model, stack, few, controls, width).any()
