"""Pictures of tables hold the numbers of the table."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from dsf.inspection.results.table import Table
from dsf.report.plot import architectures, layers_and_heads
from dsf.report.plot.tables import COMPARED


def rows(layers, heads, quantity="half_life", kind="quantity"):
    return tuple(
        {"layer": f"l{layer}", "sample": sample, "head": head, kind: quantity,
         "value": 10.0 * layer + head + sample}
        for layer in range(layers) for sample in (0, 1) for head in range(heads)
    )  # fmt: skip


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.mark.parametrize("kind", ["quantity", "score"])
def test_layers_run_down_and_heads_across_with_samples_averaged(kind):
    axes = layers_and_heads(Table(rows(30, 9, kind=kind)), "half_life")
    shown = np.asarray(axes.images[0].get_array())
    assert shown.shape == (30, 9)
    assert shown[29, 8] == 298.5
    assert axes.images[0].get_clim() == (0.5, 298.5)
    assert axes.get_yticklabels()[3].get_text() == "l3"


def test_what_is_not_there_is_named():
    with pytest.raises(ValueError, match="'reach'"):
        layers_and_heads(Table(rows(1, 1)), "reach")
    without = Table(({"layer": "a", "quantity": "half_life", "value": 1.0},))
    with pytest.raises(ValueError, match="heads"):
        layers_and_heads(without, "half_life")


def test_architectures_run_over_depth_with_the_range_of_their_heads():
    tables = {"deep": Table(rows(3, 2)), "shallow": Table(rows(1, 2))}
    (axes,) = architectures(tables, quantities=["half_life"])
    deep, shallow = axes.get_lines()
    assert deep.get_xdata().tolist() == [0.0, 0.5, 1.0]
    assert deep.get_ydata().tolist() == [1.0, 11.0, 21.0]
    assert shallow.get_xydata().tolist() == [[0.0, 1.0]]
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (0.0, 22.0)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["deep", "shallow"]


def test_an_unknown_quantity_is_refused():
    with pytest.raises(ValueError, match="quantities"):
        architectures({"a": Table(rows(1, 1))}, quantities=["reach"])
    with pytest.raises(ValueError, match="at least one"):
        architectures({})


def test_a_layer_without_heads_is_an_empty_row():
    """The layers of a hybrid keep their places."""
    mixed = rows(3, 2)
    mixed = [
        *mixed[:4],
        {"layer": "l1", "channel": 0, "quantity": "half_life", "value": 7.0},
        *mixed[8:],
    ]
    axes = layers_and_heads(Table(tuple(mixed)), "half_life")
    shown = np.ma.filled(axes.images[0].get_array(), np.nan)
    assert shown[:, 1].tolist()[::2] == [1.5, 21.5]
    assert np.isnan(shown[1]).all()
    assert [each.get_text() for each in axes.get_yticklabels()] == ["l0", "l1", "l2"]


def test_a_model_without_a_quantity_is_no_empty_line():
    with pytest.raises(ValueError, match="'mean_distance'"):
        architectures(
            {"a": Table(rows(1, 1, "mean_distance")), "b": Table(rows(1, 1))},
            quantities=["mean_distance"],
        )


@pytest.mark.parametrize(
    ("models", "options", "said"),
    [
        ([Table(rows(1, 1))], {}, "models"),
        ({"a": 3}, {}, "'a'"),
        ({"a": Table(rows(1, 1))}, {"columns": 0}, "columns"),
        ({"a": Table(rows(1, 1))}, {"columns": 1.5}, "columns"),
    ],
)
@pytest.mark.usefixtures("our_own_errors")
def test_what_cannot_be_compared_is_refused(models, options, said):
    with pytest.raises((TypeError, ValueError), match=said):
        architectures(models, quantities=["half_life"], **options)


def test_one_quantity_needs_no_list():
    (axes,) = architectures({"a": Table(rows(2, 1))}, quantities="half_life")
    assert axes.get_ylabel() == "half_life"


@pytest.mark.parametrize(("count", "columns"), [(5, 3), (3, 3), (4, 2)])
def test_the_legend_stands_in_a_free_place_or_at_the_edge(count, columns):
    """Between two panels it would push them apart."""
    names = COMPARED[:count]
    table = Table(tuple(row for name in names for row in rows(3, 2, name)))
    drawn = architectures({"a": table, "b": table}, quantities=names, columns=columns)
    (holder,) = [axes for axes in drawn[0].figure.axes if axes.get_legend()]
    full = len(names) % columns == 0
    assert holder is (drawn[columns - 1] if full else drawn[0].figure.axes[len(names)])
    assert [text.get_text() for text in holder.get_legend().get_texts()] == ["a", "b"]
