"""Every case of the benchmarks, small: all methods agree, and the page tells of each."""

import pytest

pytest.importorskip("transformers", reason='needs pip install "dsf[hf]"')

from benchmarks import evaluation, page, peers, tallies
from benchmarks.record import ERROR, shortfalls

CASES = {
    "selective": lambda: evaluation.selective(64, channels=64),
    "dual": lambda: evaluation.dual(256, heads=2, width=16, states=16),
    "gated delta": lambda: evaluation.gated_delta(64, heads=1, width=32),
    "gated linear": lambda: evaluation.gated_linear(64, heads=1, keys=16, width=32),
    "invariant": lambda: evaluation.invariant(256, channels=4, modes=4),
    "wide": lambda: evaluation.wide(64, columns=64),
    "softmax": lambda: tallies.softmax(64, heads=2, width=8),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_methods_agree_and_are_told(case):
    rows = case()
    assert "dsf" in {row["method"] for row in rows}
    assert all(0 <= row["error"] < ERROR for row in rows)
    assert shortfalls(rows, rows) == []
    assert all(row["case"] in page._line(row) for row in rows)


def test_a_peer_that_is_not_there_is_reported(monkeypatch):
    monkeypatch.setattr(peers, "NAMES", ("torch", "no_such_peer"))
    assert peers.versions()["no_such_peer"] == "not installed"
