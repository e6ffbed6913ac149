"""``dsf audit``: what it prints where nothing could be compared, and where there is no device."""

import math

import pytest

pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')

from dsf.testing.models import EXACT, NOT_READ, ROUNDED, WRONG, AuditRow


def test_a_number_that_there_is_not_is_null_in_json(run, only_object, checkpoint, monkeypatch):
    row = AuditRow("float32", 4, "layer", "", math.nan, None, math.inf, WRONG, "nothing compared")
    monkeypatch.setattr("dsf.testing.models.audit", lambda *_, **__: [row])
    done = run("audit", checkpoint, "--lengths", "4", "--dtypes", "float32", "--json")
    assert done.exit_code == 1
    (told,) = only_object(done.stdout)["rows"]
    assert told["formula"] is told["expected"] is None
    assert told["reason"] == "nothing compared"


def test_a_device_that_is_not_there_is_told_in_words(run, only_object, checkpoint):
    """Torch itself ends in an AssertionError."""
    done = run("audit", checkpoint, "--lengths", "4", "--device", "xpu:7", "--json")
    assert done.exit_code == 3
    told = only_object(done.stdout)["error"]["message"]
    assert "--device" in told
    assert "'xpu:7'" in told
    assert run("audit", checkpoint, "--lengths", "4", "--device", "cpu").exit_code == 0


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [([EXACT], 0), ([EXACT, NOT_READ], 3), ([NOT_READ, ROUNDED], 1), ([WRONG, NOT_READ], 1)],
)
def test_a_layer_that_was_not_read_is_no_success_and_in_the_last_line(
    run, checkpoint, monkeypatch, verdicts, code
):
    rows = [
        AuditRow("float32", 4, f"layer.{verdict}", "", 0.0, 0.0, 1e-6, verdict, "as planted")
        for verdict in verdicts
    ]
    monkeypatch.setattr("dsf.testing.models.audit", lambda *_, **__: rows)
    done = run("audit", checkpoint, "--lengths", "4", "--dtypes", "float32")
    assert done.exit_code == code
    last = done.stdout.strip().splitlines()[-1]
    told = last == "Not read, so nothing is known about 1: layer.not read."
    assert told == (NOT_READ in verdicts)
