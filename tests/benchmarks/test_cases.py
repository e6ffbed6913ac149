"""Every case of the benchmarks, small: all methods agree, and the page tells of each."""

import json

import pytest
import torch

pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')

from benchmarks import (
    evaluation,
    fixed,
    further_loops,
    lens,
    limits,
    maps,
    models,
    page,
    peers,
    real_shapes,
    row_statistics,
    wide,
)
from benchmarks.record import ERROR, shortfalls

CASES = {
    "selective": lambda: evaluation.selective(64, channels=64),
    "dual": lambda: evaluation.dual(256, heads=2, width=16, states=16),
    "gated delta": lambda: evaluation.gated_delta(64, heads=1, width=32),
    "gated linear": lambda: evaluation.gated_linear(64, heads=1, keys=16, width=32),
    "RWKV-7": lambda: further_loops.rwkv7(64, heads=1, width=16),
    "S4": lambda: further_loops.s4(64, channels=2, states=4),
    "S5": lambda: further_loops.s5(64, channels=4, states=4),
    "LRU": lambda: further_loops.lru(64, channels=4, states=4),
    "invariant": lambda: fixed.invariant(256, channels=4, modes=4),
    "wide": lambda: wide.wide(64, columns=64),
    "softmax": lambda: row_statistics.softmax(64, heads=2, width=8),
    "models": lambda: models.inspected(tokens=24),
    "real shapes": lambda: real_shapes.rows("small", 24),
}
SMALL = {"vocab_size": 30000, "n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 70}


@pytest.fixture(autouse=True)
def small_shapes(monkeypatch):
    monkeypatch.setattr(real_shapes, "SHAPES", {"small": ("GPT2LMHeadModel", SMALL)})
    monkeypatch.setattr(real_shapes, "SOFTMAX", ("small",))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_methods_agree_and_are_told(case):
    rows = case()
    assert "dsf" in {row["method"] for row in rows}
    assert all(0 <= row["error"] < ERROR for row in rows)
    assert shortfalls(rows, rows) == {}
    assert all(row["case"] in page._line(row) for row in rows)
    assert all(page.group_of(row["case"]) for row in rows)


def test_a_limit_is_the_longest_of_what_is_needed_and_no_work_is_faster():
    """What does exactly what is needed, and no more, takes at least as long as the limit.

    Once in five runs is enough: another program may slow the probes of any one of them.
    """
    left = torch.randn(256, 256)

    def multiply():
        for _ in range(8):
            left @ left

    def copy():
        torch.add(room[0], room[1], out=room[2])

    room = torch.ones(3, 2**22)
    for work, needs in (
        (multiply, limits.Needs(8 * 256**3, 1, 1)),
        (copy, limits.Needs(2**22, 2**23, 2**22)),
    ):
        runs = (limits.interleaved({"work": work}, rounds=5, limit=needs) for _ in range(5))
        assert any(0 < taken["limit"] <= 1.05 * taken["work"] for taken in runs)
    twice = [limits.Needs(f * 1e8, 1, 1).probes()["fused"][0] for f in (1, 2)]
    assert twice[1] == 2 * twice[0] == 2e8 / limits.FUSED


def test_ways_of_others_to_a_map_are_the_map():
    for mixer, others in (
        (maps.selective(4, 12), (maps.probed, maps.triple_loop, maps.dense_logarithms)),
        (maps.duality(3, 12), (maps.differences, maps.segment_sums)),
    ):
        assert all(maps.error(way(mixer), mixer) < ERROR for way in others)


def test_a_peer_that_is_not_there_is_reported(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(peers, "NAMES", ("torch", "no_such_peer"))
    assert peers.versions()["no_such_peer"] == "not installed"
    monkeypatch.setattr(lens, "PYTHON", tmp_path / "nowhere" / "bin" / "python")
    assert peers.versions()["TransformerLens"] == "not installed"
    assert lens.rows() == []
    assert "TransformerLens is left out" in capsys.readouterr().out


def test_what_takes_long_is_timed_once(monkeypatch):
    calls = []
    works = {"quick": lambda: calls.append("quick"), "slow": lambda: calls.append("slow")}
    seen = []
    limits.interleaved(works, rounds=3, look=lambda name, _: seen.append(name))
    assert (seen, len(calls)) == (["quick", "slow"], 14)  # twice in a turn, of which one is timed
    monkeypatch.setattr(limits, "SHORT", -1.0)
    calls.clear()
    limits.interleaved(works, rounds=3)
    assert len(calls) == 8
    monkeypatch.setattr(limits, "LONG", -1.0)
    calls.clear()
    limits.interleaved(works, rounds=3)
    assert len(calls) == 4


def test_the_page_is_the_page_of_its_record():
    record = json.loads((page.DOCS / "benchmarks.json").read_text(encoding="utf-8"))
    assert (page.DOCS / "benchmarks.md").read_text(encoding="utf-8") == page.text(record)
    assert len(page.ratios(record["rows"]).axes) == 1
    assert len(page.curves(record["growth"]).axes) == len(record["growth"])


def test_what_still_runs_in_another_thread_is_waited_for(monkeypatch):
    """At work in two naps, at rest for too few, at work in one more, and then at rest."""
    short = [0.0] * (limits.NAPS - 1)
    naps = [limits.NAP, limits.NAP, *short, limits.NAP, *short, 0.0]
    worked, left = [0.0], iter(naps)
    monkeypatch.setattr(limits.time, "process_time", lambda: sum(worked))
    monkeypatch.setattr(limits.time, "sleep", lambda _: worked.append(next(left)))
    limits.come_to_rest()
    assert worked[1:] == naps


def test_a_shape_is_compared_with_its_plain_forward_pass():
    found = real_shapes.compared("small", 70)
    assert found["formula"] <= 1e-12
    assert all(found[each] > 0 for each in ("seconds", "inspect", "measure", "report"))
