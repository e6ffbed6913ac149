"""The page about the viewer says what the record and the words of its script say."""

import json

import pytest

pytest.importorskip("PIL", reason="the script joins pictures")
from benchmarks import viewer


def test_the_page_is_written_from_its_record():
    record = json.loads(viewer.RECORD.read_text("utf-8"))
    written = viewer.text(record["rows"], record["judged"], record["note"])
    assert viewer.PAGE.read_text("utf-8") == written


def test_every_case_has_two_sentences_and_its_pictures():
    record = json.loads(viewer.RECORD.read_text("utf-8"))
    cases = [*viewer.SHAPES, *viewer.TRAINED]
    assert [row["case"] for row in record["rows"]] == cases
    for case in cases:
        assert record["judged"][case].count(". ") == 1
        assert (viewer.SHEETS / f"{viewer.stem_of(case)}.webp").exists()
