"""Times of commands by threads: the least of the rounds, ratios, neighbours that go again."""

import itertools

import pytest
import torch

pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')

from benchmarks import command_threads
from benchmarks.command_threads import Case, in_turns, lines, neighbours
from dsf.models import folder


def test_one_thread_and_all_in_turns_and_the_least_counts(monkeypatch):
    counts, seconds = [], itertools.count(start=8, step=-1)

    def run():
        counts.append(torch.get_num_threads())
        return {"whole": next(seconds)}

    monkeypatch.setattr(command_threads, "LONG", 100)
    one, every, _ = in_turns(Case("", 0, run), every=3, rounds=2)
    assert counts == [1, 3, 1, 3]
    assert (one, every) == ({"whole": 6}, {"whole": 5})


def test_what_takes_long_is_run_once():
    counts = []
    in_turns(Case("", 0, lambda: counts.append(0) or {"whole": 9.0}), every=2, rounds=3)
    assert len(counts) == 2


def test_neighbours_are_busy_and_then_gone():
    with neighbours() as busy:
        assert busy
        assert all(each.poll() is None for each in busy)
    assert all(each.poll() is not None for each in busy)


def test_a_line_for_every_command():
    case = command_threads._of_checkpoint("small", folder("llama"), 4, checked=True)
    (layers, inspect, check) = lines(case, every=1, rounds=1)
    for line, phase in ((layers, "up to the layers"), (inspect, "dsf inspect"), (check, "decided")):
        assert line.startswith("small")
        assert phase in line
