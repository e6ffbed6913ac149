"""What the gate of the benchmarks lets pass, on made-up numbers."""

import math

from benchmarks.record import shortfalls


def row(method, ratio, *, case="scan", error=1e-7):
    return {"case": case, "method": method, "seconds": 1.0, "error": error, "ratio": ratio}


RECORD = [row("dsf", 1.0), row("library", 8.0), row("limit", 0.6)]


def test_a_quarter_less_passes_and_more_does_not():
    assert shortfalls([row("dsf", 1.0), row("library", 6.0), row("limit", 0.45)], RECORD) == []
    (one,) = shortfalls([row("dsf", 1.0), row("library", 5.99)], RECORD)
    assert one == "scan: library took 5.99 times what dsf took, but 8.00 in the record"
    assert len(shortfalls([row("limit", 0.44), row("library", 80.0)], RECORD)) == 1


def test_seconds_do_not_count_and_neither_does_what_only_one_run_has():
    slower = [{**each, "seconds": 99.0} for each in RECORD]
    assert shortfalls([*slower, row("a new peer", 0.1)], RECORD) == []
    assert shortfalls([], RECORD) == []


def test_errors_of_ours_and_nan_fail():
    (one,) = shortfalls([row("dsf", 1.0, error=2e-5)], RECORD)
    assert "error of 2e-05, above 1e-05" in one
    assert shortfalls([row("library", 9.0, error=1.0)], RECORD) == []
    assert len(shortfalls([row("dsf", 1.0, error=math.nan)], RECORD)) == 1
    assert len(shortfalls([row("library", math.nan)], RECORD)) == 1
