"""What the gate of the benchmarks lets pass: made-up numbers, and a record that was spoiled."""

import json
import math
import sys

import pytest

pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')

from benchmarks import __main__ as bench
from benchmarks.record import missing, shortfalls


def row(method, ratio, *, case="scan", error=1e-7):
    return {"case": case, "method": method, "seconds": 1.0, "error": error, "ratio": ratio}


RECORD = [row("dsf", 1.0), row("library", 8.0), row("limit", 0.6), row("dsf, convolution", 1.5)]


@pytest.fixture(autouse=True)
def cases_made_here(monkeypatch):
    """Made-up cases have no process of their own."""
    monkeypatch.setattr(bench, "in_its_process", lambda name: bench.CASES[name]())


def test_a_quarter_less_passes_and_more_does_not():
    assert shortfalls([row("dsf", 1.0), row("library", 6.0), row("limit", 0.45)], RECORD) == {}
    (one,) = shortfalls([row("dsf", 1.0), row("library", 5.6), row("limit", 0.42)], RECORD)["scan"]
    said = "scan: the ratios are 0.70 of those in the record, in the median"
    assert one == f"{said} (library 0.70, limit 0.70)"


def test_one_of_several_may_be_luckier_than_it_was():
    """Where ours is slower, all of them fall."""
    record = [*RECORD, row("another", 10.0)]
    assert shortfalls([row("library", 1.0), row("limit", 0.6), row("another", 9.0)], record) == {}
    assert (
        len(shortfalls([row("library", 1.0), row("limit", 0.3), row("another", 9.0)], record)) == 1
    )


def test_another_way_of_ours_gets_worse_as_it_takes_longer():
    passing = [row("dsf, convolution", 0.1), row("dsf, convolution", 2.0)]
    assert shortfalls(passing, RECORD) == {}
    assert len(shortfalls([row("dsf, convolution", 2.01)], RECORD)["scan"]) == 1
    quicker = [row("library", 16.0), row("limit", 1.2)]  # than when it was recorded: twice
    assert shortfalls([*quicker, row("dsf, convolution", 4.0)], RECORD) == {}
    assert len(shortfalls([*quicker, row("dsf, convolution", 4.01)], RECORD)["scan"]) == 1
    fresh = "dsf, fresh memory"
    assert shortfalls([row(fresh, 9.0)], [row(fresh, 1.0)]) == {}


def test_seconds_do_not_count_and_neither_does_what_only_one_run_has():
    slower = [{**each, "seconds": 99.0} for each in RECORD]
    assert shortfalls([*slower, row("a new peer", 0.1)], RECORD) == {}
    assert shortfalls([], RECORD) == {}
    assert missing(slower[1:], RECORD) == ["scan: dsf"]


def test_errors_of_ours_and_nan_fail():
    (one,) = shortfalls([row("dsf", 1.0, error=2e-5)], RECORD)["scan"]
    assert "error of 2e-05, above 1e-05" in one
    assert shortfalls([row("library", 9.0, error=1.0)], RECORD) == {}
    assert len(shortfalls([row("dsf", 1.0, error=math.nan)], RECORD)["scan"]) == 1
    assert len(shortfalls([row("library", math.nan)], RECORD)["scan"]) == 1


@pytest.fixture
def run(monkeypatch, tmp_path):
    """``python -m benchmarks --gate`` over one case, whose ratios come one run after the other."""

    def start(*ratios, record):
        left = list(ratios)
        one = {"one": lambda: [row("dsf", 1.0), row("library", left.pop(0))]}
        monkeypatch.setattr(bench, "CASES", one)
        monkeypatch.setattr(bench, "RECORD", tmp_path / "record.json")
        bench.RECORD.write_text(json.dumps({"rows": record}), encoding="utf-8")
        monkeypatch.setattr(sys, "argv", ["benchmarks", "--gate"])
        with pytest.raises(SystemExit) as ended:
            bench.main()
        assert left == []
        return ended.value.code

    return start


def test_the_run_fails_on_a_record_that_was_spoiled(run, capsys):
    assert run(8.0, record=RECORD) == 0
    assert "not in this run: scan: limit" in capsys.readouterr().out
    spoiled = [{**each, "ratio": 2 * each["ratio"]} for each in RECORD]
    assert "the ratios are 0.51 of those in the record" in run(8.0, 8.0, 8.1, record=spoiled)
    assert run(2.0, 3.0, 7.0, record=RECORD) == 0  # runs that something else slowed down


def test_cases_that_were_disturbed_in_different_runs_pass(monkeypatch):
    """Several cases run together, and each of them passes in one of the runs."""
    left = [(2.0, 8.0), (8.0, 2.0)]

    def both():
        return [row("library", each, case=f"scan {k}") for k, each in enumerate(left.pop(0))]

    record = [row("library", 8.0, case=f"scan {k}") for k in range(2)]
    monkeypatch.setattr(bench, "CASES", {"both": both})
    assert bench.gate(["both"], record) == []
    assert left == []


def test_rows_of_a_case_take_the_place_of_its_rows_and_new_cases_come_last():
    record = [row("dsf", 1.0, case=case) for case in ("first", "second", "third")]
    made = [row("dsf", 1.0, case="second"), row("library", 3.0, case="second")]
    assert bench.renewed(record, made) == [record[0], *made, record[2]]
    other = [row("dsf", 1.0, case="fourth")]
    assert bench.renewed(record, other) == [*record, *other]


def test_renewing_writes_the_record_and_the_page(tmp_path, monkeypatch):
    place = tmp_path / "record.json"
    place.write_text(json.dumps({"rows": RECORD, "minutes": 4.0}), encoding="utf-8")
    monkeypatch.setattr(bench, "RECORD", place)
    monkeypatch.setitem(bench.CASES, "scan", lambda: [row("dsf", 1.0), row("library", 2.0)])
    written = []
    monkeypatch.setattr(bench.page, "write", written.append)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--only", "scan", "--write"])
    monkeypatch.setattr(bench, "versions", dict)
    monkeypatch.setattr(bench.torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(bench, "CASES", {"scan": bench.CASES["scan"]})
    bench.main()
    content = json.loads(place.read_text(encoding="utf-8"))
    assert [each["ratio"] for each in content["rows"]] == [1.0, 2.0]
    assert content["minutes"] == 4.0
    assert written == [content]
