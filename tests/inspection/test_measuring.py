"""The table of an inspection: tidy, complete, harmless."""

import json
import math

import pytest
import torch
from torch import nn

import dsf
from dsf import measures
from dsf.inspection.results.measurements import QUANTITIES, measured
from dsf.inspection.results.table import Table
from dsf.systems.composite import ExplicitMap, StoredRows


@pytest.fixture(scope="module")
def inspection():
    torch.manual_seed(0)
    return dsf.inspect(nn.MultiheadAttention(8, 2, batch_first=True), *[torch.randn(1, 6, 8)] * 3)


def test_one_record_for_every_head_and_quantity(inspection):
    table = inspection.measure()
    assert len(table) == 2 * len(QUANTITIES)
    sums = table.where(quantity="mean_row_sum")
    assert [record["head"] for record in sums] == [0, 1]
    assert all(math.isclose(record["value"], 1.0, abs_tol=1e-9) for record in sums)
    assert all(record["value"] == 0 for record in table.where(quantity="negative_share"))


def test_only_what_is_named_is_measured(inspection, monkeypatch):
    names = ("sink_mass", "mean_row_sum")
    some, table = inspection.measure(*names), inspection.measure()
    assert [record["quantity"] for record in some] == [name for name in names for _ in range(2)]
    for name in names:
        assert list(some.where(quantity=name)) == list(table.where(quantity=name))
    monkeypatch.setattr(measures, "hankel_ranks", lambda *_, **__: pytest.fail("was not asked for"))
    assert len(inspection.measure("half_life")) == 2


def test_a_quantity_that_is_none_is_refused(inspection):
    with pytest.raises(ValueError, match="'quantities'"):
        inspection.measure("sink_mas")


class Broken:
    """A layer whose map is no numbers."""

    name, family, axes = "broken", "none", ("head",)
    system = ExplicitMap(StoredRows(torch.full((1, 3, 3), torch.nan)))

    def place(self, index):
        return index


def test_what_cannot_be_measured_says_why():
    table = measured([Broken()])
    rank = table.where(quantity="middle_hankel_rank")[0]
    assert math.isnan(rank["value"])
    assert "NaN or infinite" in rank["note"]


def test_numbers_that_are_none_become_null_and_cells_stay_text():
    table = Table(({"layer": "=cmd()", "value": math.nan}, {"layer": "-1", "value": 2.0}))
    assert [record["value"] for record in table.to_json()] == [None, 2.0]
    json.dumps(table.to_json(), allow_nan=False)
    assert table.to_csv().splitlines() == ["layer,value", "'=cmd(),nan", "'-1,2.0"]
