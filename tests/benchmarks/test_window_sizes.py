"""The size of a window that the model chooses, in the record of what every size took."""

import json

import pytest

from benchmarks.window_sizes import RECORD, cases
from dsf.evaluate.windows import SIZES, window_size

RATIOS = json.loads(RECORD.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def systems():
    return cases()


def test_the_record_holds_every_case(systems):
    assert list(RATIOS["ratios"]) == list(systems)
    assert tuple(RATIOS["sizes"]) == SIZES


@pytest.mark.parametrize("case", RATIOS["ratios"])
def test_no_choice_loses_a_quarter(case, systems):
    system, signal = systems[case]
    chosen = window_size(system, signal.shape[-1])
    assert RATIOS["ratios"][case][SIZES.index(chosen)] <= 1.25
