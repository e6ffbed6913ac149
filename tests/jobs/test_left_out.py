"""What a job leaves out of long prompts stands in its records and in its summary."""

import json
import math

import pytest

import dsf
from dsf.inspection.results.measurements import LONGEST_FOR_RANKS, RANK
from dsf.models import folder

MODEL = folder("qwen3_next")
PROMPTS = [[1, 2, 3, 4, 5], [k % 16 for k in range(LONGEST_FOR_RANKS + 1)]]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    place = tmp_path_factory.mktemp("job")
    dsf.jobs.measure_prompts(MODEL, PROMPTS, place)
    return place


def test_ranks_of_long_prompts_are_left_out_of_attention_alone(job):
    ranks = dsf.jobs.gather(job).where(quantity=RANK)
    without = [row for row in ranks if "note" in row]
    assert {row["prompt"] for row in without} == {1}
    assert all(math.isnan(row["value"]) and "1,025 tokens" in row["note"] for row in without)
    attentions = {row["layer"] for row in without}
    others = {row["layer"] for row in ranks if row["prompt"] == 1} - attentions
    assert attentions
    assert others  # of which ranks follow from the states


def test_the_summary_says_on_how_many_prompts(job):
    ranks = dsf.jobs.summary(job).where(quantity=RANK)
    (without,) = [row for row in ranks if "note" in row]
    assert without["note"].startswith("not measured on 1 prompt: left out: of 1,025 tokens")
    assert (without["count"], math.isnan(without["mean"])) == (0, True)
    assert {row["count"] for row in ranks if row["layer"] == without["layer"]} == {0, 1}
    assert "left out: of 1,025 tokens" in (job / "summary.csv").read_text(encoding="utf-8")


def test_all_by_name_is_another_job(job, tmp_path):
    names = tuple(json.loads((job / "job.json").read_text())["quantities"])
    assert RANK in names
    with pytest.raises(ValueError, match="left_out"):
        dsf.jobs.measure_prompts(MODEL, PROMPTS, job, quantities=names)
    table = dsf.jobs.measure_prompts(MODEL, PROMPTS[1:], tmp_path, quantities=[RANK])
    assert "note" not in table.columns
    assert {row["count"] for row in table} == {1}
