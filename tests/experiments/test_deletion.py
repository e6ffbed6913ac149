"""The experiment on deletion: its curves on a model that is known, and what methods answer."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dsf.loading import load_model
from dsf.models import folder
from experiments.deletion import methods, run

BLANK = 0


class Counts(nn.Module):
    """The logit of token 1 is the sum of the values of the tokens, and that of token 0 is zero."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 1)
        with torch.no_grad():
            self.embedding.weight.copy_(torch.tensor([0.0, 1, 2, 4, -3])[:, None])

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, **_):
        whole = self.embedding(input_ids).sum(dim=1, keepdim=True)
        return SimpleNamespace(logits=torch.cat([torch.zeros_like(whole), whole], dim=-1))


@pytest.fixture
def counts():
    return Counts().eval(), torch.tensor([[1, 3, 4, 2, 1]])


def logs(values):
    return torch.tensor(values, dtype=torch.float64).sigmoid().log()


def test_curves_take_the_largest_away_first_and_keep_the_last(counts):
    model, ids = counts
    order = torch.tensor([1.0, 4, -3, 2, 1]).argsort(descending=True, stable=True)
    found = run.curves(model, ids, target=1, ranked=order, blank=BLANK)
    torch.testing.assert_close(found.deleted, logs([5.0, 1, -1, -2, -2, 1]))
    torch.testing.assert_close(found.inserted, logs([1.0, 5, 7, 8, 8, 5]))


@pytest.mark.parametrize("method", [methods.gradient_times_input, "integrated gradients"])
def test_gradients_of_a_linear_model_are_its_terms(counts, method):
    if method == "integrated gradients":
        pytest.importorskip("captum", reason="needs pip install --group curves")
        method = methods.integrated_gradients
    torch.testing.assert_close(method(*counts, 1).float(), torch.tensor([1.0, 4, -3, 2, 1]))


def test_every_method_gives_a_number_for_each_token():
    model, ids = load_model(folder("text_mamba")).model, torch.tensor([[5, 9, 9, 40, 7]])
    for name, method in methods.known(torch.Generator().manual_seed(0)).items():
        if name == "integrated gradients":
            continue
        found = method(model, ids, 11)
        assert found.shape == (5,), name
        assert found.isfinite().all(), name
    assert methods.rollout(model, ids, 11).sum() == pytest.approx(1)


def test_what_was_interrupted_goes_on_where_it_was(counts, monkeypatch):
    model, ids = counts
    prompts = [run.Prompt(ids[:, order], 1, 0.0) for order in ([0, 1, 2, 3, 4], [1, 3, 0, 2, 4])]
    asked = []

    def method(model, ids, target):
        asked.append(ids.tolist())
        return methods.gradient_times_input(model, ids, target)

    monkeypatch.setattr(run, "known", lambda _: {"method": method})
    monkeypatch.setattr(run, "beside", lambda *_: {})
    *_, whole = run.explain("counts", prompts, model, BLANK, {})
    *_, first = run.explain("counts", prompts[:1], model, BLANK, {})
    asked.clear()
    *_, second = run.explain("counts", prompts, model, BLANK, first)
    assert asked == [prompts[1].ids.tolist()]
    assert second == whole
    assert whole["counted"] == {"method": 2}
    each = [
        run.curves(model, one.ids, 1, method(model, one.ids, 1).argsort(descending=True), BLANK)
        for one in prompts
    ]
    expected = (each[0].deleted + each[1].deleted) / 2
    found = torch.tensor(whole["curves"]["method"]["deletion"], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_scores_from_another_environment_are_a_method(tmp_path, monkeypatch):
    scores = tmp_path / "scores.json"
    monkeypatch.setattr(run, "SCORES", scores)
    assert run.beside("text_llama", 0) == {}
    scores.write_text('{"text_llama": [[1.0, 2.0]]}', encoding="utf-8")
    (method,) = run.beside("text_llama", 0).values()
    assert method(None, None, 1).tolist() == [1.0, 2.0]
    assert run.beside("text_llama", 1) == {}
    assert run.beside("smollm2", 0) == {}
