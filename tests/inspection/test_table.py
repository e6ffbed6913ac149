"""A table of 30 layers with 9 heads: what it shows, means, and what it becomes elsewhere."""

import json
import math
from statistics import fmean

import pytest

from dsf.inspection.results.table import ENDS, Table


def record(layer, head, quantity, value):
    return {"layer": f"layers.{layer}", "head": head, "quantity": quantity, "value": value}


@pytest.fixture(scope="module")
def table():
    return Table(
        tuple(
            record(layer, head, quantity, float(100 * layer + head + size))
            for layer in range(30)
            for head in range(9)
            for quantity, size in (("reach", 0), ("mass", 0.5))
        )
    )


def test_it_is_shown_in_few_lines(table):
    lines = repr(table).splitlines()
    assert len(lines) == 2 * ENDS + 3
    assert lines[0].split() == ["layer", "head", "quantity", "value"]
    assert lines[1].split() == ["layers.0", "0", "reach", "0"]
    assert lines[-2].split() == ["layers.29", "8", "mass", "2908"]  # four digits
    assert lines[-1] == "540 records"
    assert repr(Table(())) == "0 records"


def test_nothing_in_it_is_markup_or_control():
    hostile = Table(({"layer": "<script>\x1b[2J\u202e", "value": 1.0},))
    shown = hostile._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;\\x1b[2J\\u202e" in shown
    assert "\x1b" not in repr(hostile)
    assert shown.count("<tr>") == 2


def test_a_slice_is_a_table_and_an_index_a_record(table):
    assert isinstance(table[:3], Table)
    assert table[:3].records == table.records[:3]
    assert table[-1] == record(29, 8, "mass", 2908.5)


@pytest.mark.parametrize("by", ["layer", ("layer",), ["layer"]])
def test_means_by_layer_keep_quantities_apart(table, by):
    found = table.mean(by=by)
    assert len(found) == 60
    for each in found:
        values = [r["value"] for r in table.where(layer=each["layer"], quantity=each["quantity"])]
        assert each["value"] == fmean(values)
        assert each["count"] == 9


def test_a_mean_over_everything_is_one_record_for_each_quantity(table):
    assert [row["quantity"] for row in table.mean()] == ["reach", "mass"]
    assert [row["count"] for row in table.mean()] == [270, 270]


def test_numbers_that_are_not_finite_are_left_out_and_not_counted():
    rows = [record(0, head, "reach", value) for head, value in enumerate((1.0, math.nan, 3.0))]
    (found,) = Table(tuple(rows)).mean(by="layer")
    assert (found["value"], found["count"]) == (2.0, 2)
    (none,) = Table((record(0, 0, "reach", math.inf),)).mean()
    assert math.isnan(none["value"])
    assert none["count"] == 0


def test_every_column_of_numbers_has_its_mean():
    rows = [{"score": "sink", "value": v, "net": -v, "note": "x"} for v in (1.0, 2.0)]
    (found,) = Table(tuple(rows)).mean()
    assert found == {"score": "sink", "value": 1.5, "net": -1.5, "count": 2}


def test_wrong_columns_are_refused_with_those_there_are(table):
    with pytest.raises(ValueError, match="'layers'"):
        table.mean(by="layers")
    with pytest.raises(ValueError, match="columns layer"):
        Table(({"layer": "a"},)).mean()


def test_a_wrong_column_is_no_empty_answer(table):
    with pytest.raises(ValueError, match="'nope'"):
        table.where(nope=3)
    assert len(table.where(layer="no such layer")) == 0
    assert len(Table(()).where(nope=3)) == 0


@pytest.mark.parametrize("several", [["layers.0", "layers.1"], {"layers.0"}, math.inf * 0])
def test_a_value_that_equals_nothing_is_refused(table, several):
    """Several values and a number that is none would be an empty answer without a word."""
    with pytest.raises(ValueError, match="where: layer"):
        table.where(layer=several)


def test_a_column_is_not_asked_for_by_its_name(table):
    with pytest.raises(TypeError, match="'layer'"):
        table["layer"]


@pytest.mark.usefixtures("our_own_errors")
@pytest.mark.parametrize("by", [3, None, ("layer", 3)])
def test_what_is_no_name_of_a_column_is_refused(table, by):
    with pytest.raises(ValueError, match=r"by has (3|None)"):
        table.mean(by=by)


def test_numbers_of_numpy_count():
    """Left out, the mean of 2 and 1 would be 1 without a word."""
    numpy = pytest.importorskip("numpy")
    rows = [{"value": number} for number in (numpy.float32(2), 1.0, numpy.int64(3))]
    (found,) = Table(tuple(rows)).mean()
    assert found == {"value": 2.0, "count": 3}
    none = Table(({"value": numpy.float32("nan")}, {"value": numpy.float32(0.5)})).to_json()
    assert json.dumps(none) == '[{"value": null}, {"value": 0.5}]'


def test_of_nothing_there_is_no_mean():
    assert len(Table(()).mean(by="layer")) == 0


def test_a_frame_has_the_columns_of_the_table(table):
    pytest.importorskip("pandas")
    frame = table.to_pandas()
    assert list(frame.columns) == list(table.columns)
    assert frame.shape == (540, 4)
    assert frame.groupby(["layer", "quantity"]).value.mean().loc["layers.3", "mass"] == 304.5
    assert table.to_pandas().to_dict("records") == list(table)


def test_without_pandas_it_says_what_to_install(table, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        table.to_pandas()
