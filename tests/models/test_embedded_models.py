"""The models that come with the package: small, finite, able to do what they learnt."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from dsf import models
from dsf.models import recall

BUDGET = 2_000_000  # bytes, all models together


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", params=models.NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(models.folder(name))


def test_all_models_together_stay_small():
    folders = [models.folder(name) for name in models.NAMES]
    assert 0 < sum(file.stat().st_size for each in folders for file in each.iterdir()) < BUDGET


def test_weights_are_finite_and_about_a_hundred_thousand(name):
    weights = load_file(models.folder(name) / "model.safetensors")
    assert 80_000 < sum(weight.numel() for weight in weights.values()) < 120_000
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert all(weight.isfinite().all() for weight in weights.values())


def test_a_configuration_names_its_class_and_no_machine(name):
    configuration = json.loads((models.folder(name) / "config.json").read_text())
    assert configuration["model_type"] == name
    assert configuration["vocab_size"] == len(recall.VOCABULARY)
    assert "_name_or_path" not in configuration
    assert "/" not in json.dumps(configuration)


def test_every_model_recalls(model):
    assert recall.accuracy(model, recall.draw(seeded(77), 200)) >= 0.99


def test_recall_needs_the_pairs(model):
    tokens, targets = recall.draw(seeded(77), 200)
    hidden = tokens.clone()
    hidden[:, : 2 * recall.PAIRS] = recall.BLANK
    assert recall.accuracy(model, recall.Recall(hidden, targets)) < 0.3


def test_recorded_accuracies_are_those_of_the_stored_models(model, name):
    record = json.loads((models.folder(name).parent / "recall.json").read_text(encoding="utf-8"))
    drawn = recall.draw(seeded(record["test_seed"]), record["test_samples"])
    measured = recall.accuracy(model, drawn)
    assert measured == pytest.approx(record["models"][name]["accuracy"], abs=5e-4)
    assert record["vocabulary"] == list(recall.VOCABULARY)


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="'gpt'"):
        models.folder("gpt")


@pytest.mark.parametrize("pairs", [1, 5, 16])
def test_every_query_asks_for_the_value_behind_its_key(pairs):
    tokens, targets = recall.draw(seeded(0), 50, pairs=pairs, length=3 * pairs + 2)
    for sequence, answers in zip(tokens.tolist(), targets.tolist(), strict=True):
        shown = dict(zip(sequence[0 : 2 * pairs : 2], sequence[1 : 2 * pairs : 2], strict=True))
        asked = {
            key: answer
            for key, answer in zip(sequence, answers, strict=True)
            if answer != recall.SILENT
        }
        assert len(set(shown.values())) == pairs
        assert asked == shown
        assert sorted(sequence[2 * pairs :])[-pairs:] == sorted(shown)
        assert answers[: 2 * pairs] == [recall.SILENT] * 2 * pairs


def test_a_seed_gives_the_same_sequences():
    first, second = recall.draw(seeded(3), 4), recall.draw(seeded(3), 4)
    assert torch.equal(first.tokens, second.tokens)
    assert not torch.equal(first.tokens, recall.draw(seeded(4), 4).tokens)


def test_queries_fall_everywhere_behind_the_pairs():
    targets = recall.draw(seeded(0), 2000).targets
    often = (targets != recall.SILENT).double().mean(dim=0)[2 * recall.PAIRS :]
    expected = recall.PAIRS / (recall.LENGTH - 2 * recall.PAIRS)
    spread = math.sqrt(expected * (1 - expected) / 2000)
    assert (often - expected).abs().max() < 5 * spread


def test_impossible_sequences_are_refused():
    with pytest.raises(ValueError, match="pairs"):
        recall.draw(seeded(0), 1, pairs=17, length=99)
    with pytest.raises(ValueError, match="15 tokens"):
        recall.draw(seeded(0), 1, pairs=5, length=14)


def test_tokens_are_spelled():
    assert recall.spell(torch.tensor([0, 1, 16, 17, 32])) == ["·", "k00", "k15", "v00", "v15"]
    assert len(recall.VOCABULARY) == 33


@pytest.mark.parametrize(
    "lag",
    [
        512,
        pytest.param(1024, marks=pytest.mark.nightly),
        pytest.param(2048, marks=pytest.mark.nightly),
    ],
)
@pytest.mark.parametrize("name", models.LONG_NAMES)
def test_long_models_recall_between_distractors(name, lag):
    transformers = pytest.importorskip("transformers")
    folder = models.folder(name)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3_000_000
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    drawn = recall.draw_long(seeded(77), 4, lag=lag, distractors=24)
    assert recall.accuracy(model, drawn) >= 0.95


@pytest.mark.parametrize(("lag", "distractors", "queries"), [(0, 0, 1), (64, 30, 1), (40, 12, 3)])
def test_long_recall_asks_late_for_what_was_shown_first(lag, distractors, queries):
    tokens, targets = recall.draw_long(
        seeded(0), 20, lag=lag, pairs=4, distractors=distractors, queries=queries
    )
    assert tokens.shape == (20, 8 + lag + 32)
    for sequence, answers in zip(tokens.tolist(), targets.tolist(), strict=True):
        shown = dict(zip(sequence[0:8:2], sequence[1:8:2], strict=True))
        asked = [place for place, answer in enumerate(answers) if answer != recall.SILENT]
        assert len(asked) == 4 * queries
        assert min(asked) >= 8 + lag
        assert all(answers[place] == shown[sequence[place]] for place in asked)
        assert all(sequence[place + 1] == recall.BLANK for place in asked)
        keys = [t for t in sequence[8:] if 0 < t <= recall.KEYS and t not in shown]
        assert len(keys) == distractors
        assert sum(token > recall.KEYS for token in sequence[8:]) == distractors


@pytest.mark.parametrize(
    ("wrong", "name"), [({"lag": 3}, "lag"), ({"lag": 2, "distractors": 90}, "distractors")]
)
def test_long_recall_that_does_not_fit_is_refused(wrong, name):
    with pytest.raises(ValueError, match=name):
        recall.draw_long(seeded(0), 1, **wrong)
