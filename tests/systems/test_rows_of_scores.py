"""Rows that are made of scores, times values: within their reach, over several panels."""

import pytest
import torch

import dsf
from dsf.systems.composite import PANEL, PairRows, whole_rows

STEPS = 2 * PANEL + 9


def drawn(kind):
    return kind.draw(torch.Generator().manual_seed(0), steps=STEPS)


SCORED = [
    kind
    for kind in dsf.mixers.ALL
    if isinstance(
        whole_rows(kind.draw(torch.Generator().manual_seed(0), steps=3).system()), PairRows
    )
]


@pytest.mark.parametrize("kind", SCORED, ids=lambda kind: kind.__name__)
def test_parts_and_all_of_a_response_are_the_map_times_the_values(kind):
    mixer = drawn(kind)
    system, signal = mixer.system(), mixer.signal()
    rows, value = whole_rows(system), signal.squeeze(-2)
    expected = dsf.attention_map(system) @ value
    torch.testing.assert_close(PairRows.apply(rows, signal).squeeze(-2), expected)
    for start, stop in ((0, 5), (PANEL - 3, PANEL + 3), (STEPS - 1, STEPS)):
        torch.testing.assert_close(rows.mixed(start, stop, value), expected[..., start:stop, :])
