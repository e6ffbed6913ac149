"""The loop that experiments share, and sweeps that lose nothing."""

import json

import pytest
import torch
from torch import nn

from experiments.training.examples import SILENT, Examples, accuracy, batches, loss
from experiments.training.fit import Schedule, fit
from experiments.training.sweep import gather, sweep

SETTINGS = {"one": 1, "two": 2, "three": 3}


def sides() -> Examples:
    """Which side of a line a point is on."""
    points = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    return Examples(points, (points @ torch.tensor([1.0, -2.0, 0.5]) > 0).long())


def reports(seed=0, **schedule):
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    examples = sides()
    drawn = batches(examples, size=20, seed=seed)
    return list(fit(model, drawn, examples, Schedule(**{"rate": 0.05, "steps": 250} | schedule)))


def test_training_learns_and_reports_at_checks_and_at_the_end():
    seen = reports()
    assert [each.steps for each in seen] == [100, 200, 250]
    assert seen[-1].accuracy > 0.97
    assert seen[-1].loss < seen[0].loss


def test_training_stops_when_enough_is_answered():
    assert [each.steps for each in reports(enough=0.5)] == [100]


def test_training_twice_is_the_same_and_another_seed_is_not():
    first, second, other = reports(), reports(), reports(seed=1)
    assert [each.loss for each in first] == [each.loss for each in second]
    assert first[0].loss != other[0].loss


def test_the_rate_warms_up_and_ends_at_zero():
    schedule = Schedule(rate=1.0, steps=300, warm_up=100)
    factors = [schedule.factor(step) for step in (0, 99, 100, 200, 300)]
    assert factors == pytest.approx([0.01, 1.0, 1.0, 0.5, 0.0])


def test_only_weights_of_linear_maps_decay():
    """Without a gradient from the data, decay alone moves what it may move."""
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    model[1].bias.requires_grad_(False)
    silent = Examples(torch.zeros(20, 3), torch.zeros(20, dtype=torch.long))
    before = model[1].weight.clone()
    model[1].weight.register_hook(torch.zeros_like)
    model[0].weight.register_hook(torch.zeros_like)
    weight = model[0].weight.detach().clone()
    drawn = batches(silent, size=20, seed=0)
    list(fit(model, drawn, silent, Schedule(rate=0.1, steps=5, warm_up=0, enough=2.0)))
    assert torch.equal(model[1].weight, before)
    assert model[0].weight.abs().sum() < weight.abs().sum()


def test_a_pass_over_the_batches_is_every_example_once():
    examples = Examples(torch.arange(10.0)[:, None], torch.arange(10))
    drawn = batches(examples, size=5, seed=0)
    passes = [torch.cat([next(drawn).targets, next(drawn).targets]) for _ in range(2)]
    for order in passes:
        assert sorted(order.tolist()) == list(range(10))
    assert passes[0].tolist() != passes[1].tolist()


def test_more_in_a_batch_than_there_is_is_refused():
    with pytest.raises(ValueError, match="size"):
        next(batches(Examples(torch.zeros(10, 1), torch.zeros(10)), size=11, seed=0))


def test_silent_targets_count_neither_in_the_loss_nor_in_the_accuracy():
    scores = torch.tensor([[[2.0, 0.0], [0.0, 2.0], [9.0, 0.0]]])
    targets = torch.tensor([[0, 0, SILENT]])
    right, wrong = (torch.log1p(torch.tensor(sign * 2.0).exp()) for sign in (-1, 1))
    torch.testing.assert_close(loss(scores, targets), (right + wrong) / 2)
    assert accuracy(nn.Identity(), Examples(scores, targets), size=1) == 0.5


class Runs:
    """Counts its runs and fails on some."""

    def __init__(self, *, failing=()):
        self.done, self.failing = [], failing

    def __call__(self, setting):
        if setting in self.failing:
            raise ArithmeticError(f"{setting} does not go")
        self.done.append(setting)
        return {"square": setting**2}


def test_a_finished_sweep_is_not_done_again(tmp_path):
    sweep(Runs(), SETTINGS, tmp_path)
    again = Runs()
    sweep(again, SETTINGS, tmp_path)
    assert again.done == []
    assert gather(SETTINGS, tmp_path)["three"] == {"square": 9}


def test_what_fails_is_named_and_alone_is_tried_again(tmp_path):
    with pytest.raises(RuntimeError, match=r"1 of 3 runs.*two"):
        sweep(Runs(failing=[2]), SETTINGS, tmp_path)
    assert list(gather(SETTINGS, tmp_path)) == ["one", "three"]
    again = Runs()
    sweep(again, SETTINGS, tmp_path)
    assert again.done == [2]


def test_an_interrupted_run_alone_is_lost(tmp_path):
    class Interrupted(Runs):
        def __call__(self, setting):
            if setting == 2:
                raise KeyboardInterrupt
            return super().__call__(setting)

    with pytest.raises(KeyboardInterrupt):
        sweep(Interrupted(), SETTINGS, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["one.json"]
    again = Runs()
    sweep(again, SETTINGS, tmp_path)
    assert again.done == [2, 3]


def test_a_result_is_whole_json(tmp_path):
    sweep(Runs(), SETTINGS, tmp_path)
    assert json.loads((tmp_path / "two.json").read_text()) == {"square": 4}


def test_no_worker_is_refused(tmp_path):
    with pytest.raises(ValueError, match="workers"):
        sweep(Runs(), SETTINGS, tmp_path, workers=0)


@pytest.mark.slow
def test_two_workers_do_all_of_it(tmp_path):
    sweep(abs, {"minus": -1, "plus": 2}, tmp_path, workers=2)
    assert gather({"minus": -1, "plus": 2}, tmp_path) == {"minus": 1, "plus": 2}
