"""Figure 1, the expansion, the timings and the tables of the InLine experiment."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")

from papers.in_line.experiments.digits import expansion, figure_one, report, speed, summary, tables

README = Path(report.__file__).with_name("README.md")


@pytest.mark.parametrize("panel", figure_one.PANELS.values(), ids=figure_one.PANELS)
def test_all_printed_weights_follow_from_the_arrows(panel):
    differences = figure_one.largest_differences(panel)
    assert set(differences) == {"softmax", "linear", "in_line"}
    assert max(differences.values()) < 0.01


def test_figure_one_by_hand():
    """The first query of panel (a), by the formulas and without mixers."""
    panel = figure_one.PANELS["a"]
    query = torch.tensor(panel.queries[0], dtype=torch.float64)
    scores = torch.tensor(figure_one.KEYS, dtype=torch.float64) @ query / 2**0.5
    ours = figure_one.our_weights(panel)
    torch.testing.assert_close(ours["softmax"][0], scores.softmax(dim=0))
    torch.testing.assert_close(ours["linear"][0], scores / scores.sum())
    torch.testing.assert_close(ours["in_line"][0], (scores - scores.mean()) / 4 + 0.25)


def test_the_table_of_figure_one_has_all_96_weights():
    lines = tables.figure_one_table().splitlines()[2:]
    printed = [weight for line in lines for weight in line.split("|")[3].split()]
    assert len(printed) == 96
    assert lines[0].split("|")[3].split() == ["0.31", "0.23", "0.25", "0.20"]


def test_the_gap_to_softmax_falls_with_the_square_of_the_scale():
    small, larger, largest = expansion.gaps((1e-3, 1e-2, 3.0))
    assert larger["local_slope"] == pytest.approx(2, abs=0.01)
    assert small["gap"] == pytest.approx(small["next_order"], rel=0.01)
    assert largest["local_slope"] < 1.9


def test_both_ways_of_computing_agree():
    query, key, value = torch.randn(3, 20, speed.WIDTH, dtype=torch.float64)
    for one, other in (
        (speed.softmax_by_its_map, speed.softmax_by_dsf),
        (speed.in_line_by_its_sums, speed.in_line_by_dsf),
    ):
        torch.testing.assert_close(one(query, key, value), other(query, key, value))


def test_times_are_of_every_method_and_positive():
    (row,) = speed.times((64,), repeats=1)
    assert row["tokens"] == 64
    assert set(row) == {"tokens", *speed.METHODS}
    assert min(row.values()) > 0


def finished(seed, accuracy, counts=(0, 4)):
    curve = {"interior": [0.1, 0.2], "edge_aware": [0.1, 0.2], "signed": [0.1, 0.2]}
    return {
        "variant": "softmax",
        "seed": seed,
        "parameters": 7,
        "accuracy": accuracy,
        "masked": {width: {"local": accuracy / 2, "random": accuracy} for width in "135"},
        "locality": curve,
        "locality_untrained": curve,
        "weight_spread": [1.0, 2.0],
        "processor_seconds": 1.0,
        "confusions": {"absolute": list(counts), "relative": [1, 1]},
        "peaked": {"peaked_rows": 0.25, "confusions": 4.0, "between_peaked_rows": 3.0},
    }


STOPPED = {
    "variant": "softmax",
    "seed": 2,
    "parameters": 7,
    "locality_untrained": finished(2, 0)["locality_untrained"],
    "stopped": "the gradient was no longer finite",
}


def test_seeds_become_medians_and_stopped_ones_are_counted():
    entry = summary.summaries([finished(0, 0.9), finished(1, 0.7), finished(3, 0.8), STOPPED])[
        "softmax"
    ]
    assert (entry["accuracy"], entry["seeds"], entry["stopped"]) == (0.8, 4, 1)
    assert entry["accuracies"] == [0.9, 0.7, 0.8]
    assert entry["masked"]["5"] == {"local": 0.4, "random": 0.8}
    assert entry["locality"]["interior"] == [0.1, 0.2]
    assert entry["confusions"]["absolute"][0] == {"mean": 2, "median": 2, "images_without": 0.5}


def test_a_variant_that_never_trained_has_no_accuracy_and_still_a_row():
    found = summary.summaries([STOPPED])
    assert "accuracy" not in found["softmax"]
    assert "| softmax | stopped |  |" in tables.accuracy_table(found)
    assert "softmax" not in tables.masking_table(found)


def test_tables_read_left_to_right():
    found = summary.summaries([finished(0, 0.9), finished(1, 0.7), finished(2, 0.8)])
    assert "| softmax | 90.0 70.0 80.0 |" in tables.accuracy_table(found)
    assert "| softmax | 80.0 | 40.0 / 80.0 | 40.0 / 80.0 |" in tables.masking_table(found)
    assert "| softmax | 2.0 2.0 2.0 (50 %) | 1.0 1.0 1.0 (0 %) |" in tables.confusion_table(found)
    assert "| softmax | 0.100 0.200 | 0.100 0.200 |" in tables.locality_table(found)


def test_a_table_goes_between_its_marks_and_nothing_else_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "HERE", tmp_path)
    readme = tmp_path / "README.md"
    other = "\n<!-- time -->\nkept\n<!-- end -->\n"
    for old in ("", "old\n"):
        readme.write_text(f"before\n<!-- gap -->\n{old}<!-- end -->\n" + other)
        report.write_readme({"gap": "| \\1 new |"})
        assert readme.read_text() == "before\n<!-- gap -->\n| \\1 new |\n<!-- end -->\n" + other
    with pytest.raises(ValueError, match="'speed'"):
        report.write_readme({"speed": ""})


def test_everything_is_written_from_few_runs(tmp_path, monkeypatch):
    """The whole report, from one run a variant that the figures can show."""
    monkeypatch.setattr(report, "HERE", tmp_path)
    monkeypatch.setattr(report, "RUNS", tmp_path / "runs")
    (tmp_path / "README.md").write_text(README.read_text(encoding="utf-8"), encoding="utf-8")
    report.write_json(tmp_path / "speed.json", {"rows": speed.times((64, 128), repeats=1)})
    for variant in ("softmax", "linear-relu", "in-line-identity"):
        report.write_json(
            tmp_path / "runs" / f"{variant}-0.json", finished(0, 0.9) | {"variant": variant}
        )
    report.main()
    written = {path.name for path in tmp_path.iterdir()}
    figures = {
        "figure_one.png",
        "time_and_gap.png",
        "locality.png",
        "confusions.png",
        "masking.png",
    }
    assert figures | {"results.json", "figure_one.md"} <= written
    assert set(json.loads((tmp_path / "results.json").read_text())["digits"]) == {
        "softmax",
        "linear-relu",
        "in-line-identity",
    }
