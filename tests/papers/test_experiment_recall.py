"""Recall as an experiment: the sequences, the models, and one run that is the same twice."""

import pytest
import torch

from experiments.training.examples import SILENT
from papers.dynamical_systems.experiments.recall import mixers, queries, run, settings
from papers.dynamical_systems.experiments.recall.model import Recaller


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def drawn():
    return queries.draw(generator(), 400)


def test_pairs_come_first_and_no_key_or_value_twice(drawn):
    for tokens in drawn.inputs.tolist():
        keys, values = tokens[0:8:2], tokens[1:8:2]
        assert set(keys) <= set(range(1, 32))
        assert set(values) <= set(range(32, 64))
        assert len(set(keys)) == len(set(values)) == 4


def test_every_key_returns_once_and_asks_for_its_value(drawn):
    for tokens, targets in zip(drawn.inputs.tolist(), drawn.targets.tolist(), strict=True):
        value_of = dict(zip(tokens[0:8:2], tokens[1:8:2], strict=True))
        asked = {place: answer for place, answer in enumerate(targets) if answer != SILENT}
        assert {tokens[place]: answer for place, answer in asked.items()} == value_of
        assert all(place >= 8 and place % 2 == 0 for place in asked)
        assert sum(tokens[8:]) == sum(value_of)  # all other tokens are blank


def test_returns_follow_the_power_law():
    """With one pair the gap g has probability (g + 1)^(-0.99) / sum, by hand for 15 gaps."""
    targets = queries.draw(generator(), 20_000, pairs=1).targets
    places = (targets != SILENT).double().mean(dim=0)
    share = [1 / gap**0.99 for gap in range(1, 16)]
    expected = torch.tensor([one / sum(share) for one in share], dtype=torch.double)
    torch.testing.assert_close(places[2::2], expected, atol=0.012, rtol=0)
    assert places[:2].sum() == places[3::2].sum() == 0


def test_a_task_as_tight_as_it_gets_has_every_place_taken():
    tokens = queries.draw(generator(), 50, pairs=4, length=16).inputs
    assert (tokens[:, 8::2] > 0).all()
    assert (tokens[:, 9::2] == 0).all()


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"pairs": 32, "length": 128}, "pairs"),
        ({"pairs": 0}, "pairs"),
        ({"length": 15}, "length"),
    ],
)
def test_a_task_that_cannot_be_is_refused(sizes, words):
    with pytest.raises(ValueError, match=words):
        queries.draw(generator(), 1, **sizes)


@pytest.mark.parametrize("name", mixers.NAMES)
def test_no_model_reads_ahead(name):
    torch.manual_seed(0)
    model = Recaller(16, lambda: mixers.layer(name, width=16, n=4)).double()
    tokens = queries.draw(generator(), 2).inputs
    changed = tokens.clone()
    changed[:, 9:] = 5
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(after[:, :9], before[:, :9], atol=1e-9, rtol=0)
    assert (after[:, 9:] - before[:, 9:]).abs().max() > 1e-3


def test_one_run_twice_is_one_result():
    setting = settings.Setting("linear", n=4, width=16, seed=3, rate=3e-3)
    first, second = (run.run(setting, steps=3) for _ in range(2))
    for result in (first, second):
        result.pop("seconds")
    assert first == second
    assert first["steps"] == 3
    assert first["mixer"] == "linear"


def test_names_of_runs_are_names_of_files_and_all_different():
    chosen = settings.of_rates() | settings.of_sweep()
    assert len(set(chosen.values())) == len(chosen)
    assert all(name.replace("-", "").replace("_", "").replace(".", "").isalnum() for name in chosen)


def test_every_mixer_runs_with_every_seed_and_no_rate_but_its_own():
    sweep = list(settings.of_sweep().values())
    for name in mixers.NAMES:
        mine = [each for each in sweep if each.mixer == name]
        assert {each.seed for each in mine} == set(settings.SEEDS)
        assert len({each.rate for each in mine}) == 1
