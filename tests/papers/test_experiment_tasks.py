"""The small tasks of MAD and the Long Range Arena, and the windows of the digits."""

import json

import pytest
import torch

from experiments.training.examples import SILENT
from papers.dynamical_systems.experiments.tasks import generators, report, run


def drawn(task, samples=60):
    return generators.TASKS[task](torch.Generator().manual_seed(0), samples)


@pytest.mark.parametrize("task", generators.TASKS)
def test_every_task_has_one_length_and_one_vocabulary_and_asks_in_every_sequence(task):
    inputs, targets = drawn(task)
    assert inputs.shape == targets.shape == (60, generators.LENGTH)
    assert set(inputs.unique().tolist()) <= set(range(generators.VOCABULARY))
    assert (targets != SILENT).any(dim=1).all()
    torch.testing.assert_close(drawn(task).inputs, inputs, rtol=0, atol=0)


@pytest.mark.parametrize("task", ["in-context recall", "noisy recall"])
def test_a_key_asks_for_the_value_that_followed_it_before(task):
    inputs, targets = drawn(task)
    meaningless = 0
    for tokens, asked in zip(inputs.tolist(), targets.tolist(), strict=True):
        known = {}
        for place, token in enumerate(tokens):
            if token < generators.KEYS:
                assert asked[place] == known.get(token, SILENT)
                if place + 1 < len(tokens):
                    known[token] = tokens[place + 1]
            else:
                assert asked[place] == SILENT
                meaningless += token >= generators.KEYS + generators.VALUES
    assert (meaningless > 0) == (task == "noisy recall")


def test_letters_are_asked_for_in_their_order():
    inputs, targets = drawn("selective copying")
    for tokens, asked in zip(inputs.tolist(), targets.tolist(), strict=True):
        letters = [token for token in tokens if token not in (generators.BLANK, generators.COPY)]
        assert letters == [answer for answer in asked if answer != SILENT]
        assert tokens[-len(letters) :] == [generators.COPY] * len(letters)


def test_expressions_have_the_value_that_python_gives_them():
    """Written as Python and evaluated, where the generator adds up as it draws."""
    names = ["max", "min", "med", "total"]
    meaning = {
        "med": lambda *values: sorted(values)[(len(values) - 1) // 2],
        "total": lambda *values: sum(values) % 10,
        "max": max,
        "min": min,
    }
    inputs, targets = drawn("list operations")
    for tokens, asked in zip(inputs.tolist(), targets.tolist(), strict=True):
        written = ""
        for token in tokens:
            if token < 10:
                written += f"{token},"
            elif token < generators.CLOSE:
                written += f"{names[token - 10]}("
            elif token == generators.CLOSE:
                written += "),"
        assert eval(written.rstrip(","), {"__builtins__": {}}, meaning) == asked[-1]


def test_a_run_says_what_it_reached_and_the_page_shows_all_of_them():
    setting = run.Setting("selective copying", "in-line", 0)
    result = run.run(setting, steps=2)
    assert 0 <= result["accuracy"] <= 1
    assert result["steps"] == 2
    results = json.loads((report.FOLDER / "results.json").read_text())
    assert set(results) == set(run.settings())
    assert report.as_table(report.found(results)) in (report.FOLDER / "README.md").read_text()
