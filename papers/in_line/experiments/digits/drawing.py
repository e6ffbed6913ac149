"""The figures: each function draws what it is given."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from papers.in_line.experiments.digits import figure_one
from papers.in_line.experiments.digits.figure_one import KEYS, PANELS, Panel

SHADES = ("#c4dbec", "#7daed5", "#3879b5", "#103e78")
"""Of the four queries of figure 1."""
COLOURS = {"softmax": "#16355c", "linear": "#d65430", "in-line": "#2f8f5b"}
TITLES = {"softmax": "softmax attention", "linear": "linear attention", "in_line": "InLine"}


def figure_one_again(path: Path) -> None:
    """Queries and keys of both panels as arrows, the printed weights and ours as bars."""
    figure, grid = plt.subplots(
        2, 4, figsize=(13, 6), width_ratios=(1, 1.2, 1.2, 1.2), layout="constrained"
    )
    for (name, panel), row in zip(PANELS.items(), grid, strict=True):
        _arrows(row[0], panel)
        row[0].set_title(f"({name}) queries and keys")
        ours = figure_one.our_weights(panel)
        for axes, (attention, weights) in zip(row[1:], ours.items(), strict=True):
            _bars(axes, weights.numpy(), np.array(getattr(panel, attention)))
            axes.set_title(TITLES[attention])
    grid[0, -1].legend(loc="upper right", fontsize=8)
    _save(figure, path)


def _arrows(axes: Axes, panel: Panel) -> None:
    for number, (x, y) in enumerate(KEYS, start=1):
        _arrow(axes, x, y, "#999999", f"k{number}")
    queries = list(enumerate(zip(panel.queries, SHADES, strict=True), start=1))
    for number, ((x, y), shade) in reversed(queries):  # the shortest on top
        _arrow(axes, x, y, shade, f"q{number}")
    axes.set(xlim=(0, 2.3), ylim=(0, 2.3), aspect="equal")


def _arrow(axes: Axes, x: float, y: float, colour: str, label: str) -> None:
    axes.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.5})
    axes.annotate(label, (x, y), (3, 2), textcoords="offset points", fontsize=8, color="#333333")


def _bars(axes: Axes, ours: np.ndarray, printed: np.ndarray) -> None:
    """One group a query, one bar a key; a black mark where the paper's figure prints its number."""
    for query, (weights, marks) in enumerate(zip(ours, printed, strict=True)):
        places = query + (np.arange(4) - 1.5) * 0.2
        axes.bar(places, weights, width=0.18, color=SHADES[query])
        axes.plot(places, marks, "k_", ms=7, label="printed" if query == 0 else None)
        for place, mark in zip(places, marks, strict=True):
            text = f"{mark:.2f}"
            axes.annotate(text, (place, mark), (0, 3), textcoords="offset points", fontsize=6,
                          ha="center", rotation=90, va="bottom")  # fmt: skip
    axes.set(ylim=(0, 0.58), xticks=range(4), xticklabels=["q1", "q2", "q3", "q4"])


def locality_curves(
    path: Path, curves: Mapping[str, Mapping[str, Sequence[float]]], uniform: Mapping[str, float]
) -> None:
    """Mean weight on the 3 x 3 neighbourhood by block, one panel a convention.

    ``curves`` and ``uniform`` by convention; of the curves by variant, one number a block.
    """
    figure, row = plt.subplots(1, len(curves), figsize=(11, 4), layout="constrained")
    for axes, (convention, by_variant) in zip(row, curves.items(), strict=True):
        for variant, curve in by_variant.items():
            axes.plot(range(1, len(curve) + 1), curve, label=variant, **_style(variant))
        axes.axhline(uniform[convention], color="#999999", lw=1)
        axes.annotate("uniform", (1, uniform[convention]), (0, 3), textcoords="offset points")
        axes.set(title=convention, xlabel="block", xticks=range(1, len(curve) + 1))
    row[0].set_ylabel("share of the weight on the 3 x 3 neighbourhood")
    row[-1].legend(fontsize=7)
    _save(figure, path)


def confusion_histograms(path: Path, counts: Mapping[str, Mapping[str, Sequence[int]]]) -> None:
    """Images by their number of confused pairs, one panel a threshold, one line a variant."""
    figure, row = plt.subplots(1, len(counts), figsize=(11, 4), layout="constrained", sharey=True)
    edges = np.concatenate([[0, 1], np.geomspace(2, 20_000, 25)])
    for axes, (threshold, by_variant) in zip(row, counts.items(), strict=True):
        for variant, found in by_variant.items():
            heights, _ = np.histogram(found, edges)
            axes.stairs(heights / len(found), edges, label=variant, **_style(variant, marker=False))
        axes.set_xscale("symlog", linthresh=1)
        axes.set(title=f"{threshold} threshold", xlabel="confused pairs of an image", xlim=(0, 2e4))
    row[0].set_ylabel("share of the images")
    row[-1].legend(fontsize=7)
    _save(figure, path)


def accuracies_when_masked(
    path: Path, accuracies: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> None:
    """Accuracy against the width of the hidden window, local and random, one panel a variant."""
    figure, row = plt.subplots(
        1, len(accuracies), figsize=(2.4 * len(accuracies), 3.2), layout="constrained", sharey=True
    )
    for axes, (variant, by_choice) in zip(row, accuracies.items(), strict=True):
        for choice, style in (("local", "o-"), ("random", "s:")):
            by_width = by_choice[choice]
            axes.plot(list(by_width), list(by_width.values()), style, label=choice, color="#16355c")
        axes.set_title(variant, fontsize=8)
    figure.supxlabel("hidden window, tokens across")
    row[0].set_ylabel("accuracy")
    row[0].legend()
    _save(figure, path)


def time_and_gap(
    path: Path, times: Sequence[Mapping[str, float]], gaps: Sequence[Mapping[str, float]]
) -> None:
    """Left, milliseconds against tokens; right, how far InLine is from softmax."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    tokens = [row["tokens"] for row in times]
    for method in times[0].keys() - {"tokens"}:
        family = "softmax" if method.startswith("softmax") else "in-line"
        style = "o:" if method.endswith("dsf") else "o-"
        left.loglog(tokens, [row[method] for row in times], style, label=method.replace("_", " "),
                    color=COLOURS[family])  # fmt: skip
    left.set(xlabel="tokens", ylabel="milliseconds, one head of width 64")
    left.legend(fontsize=8)
    scales = [row["scale"] for row in gaps]
    right.loglog(scales, [row["gap"] for row in gaps], "o-", color="#16355c", label="largest gap")
    right.loglog(scales, [row["next_order"] for row in gaps], ":", color="#999999",
                 label="second-order term")  # fmt: skip
    right.set(
        xlabel="scale of the logits", ylabel="softmax weight less InLine weight", ylim=(1e-7, 10)
    )
    right.legend(fontsize=8)
    _save(figure, path)


def _style(variant: str, *, marker: bool = True) -> dict[str, object]:
    """Colour by attention, fainter with the local residual, dashes by feature map."""
    family = next(name for name in COLOURS if variant.startswith(name))
    style: dict[str, object] = {
        "color": COLOURS[family],
        "ls": "--" if "elu" in variant and "relu" not in variant else "-",
        "alpha": 0.45 if "+local" in variant else 1.0,
    }
    return style | ({"marker": "o", "ms": 3} if marker else {})


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
