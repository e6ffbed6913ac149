"""Accuracy against the state and against the width: a dot a run, a line through the medians."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from papers.dynamical_systems.experiments.recall.summary import STATES, WIDTHS, Sizes, Summary

PANELS = {
    "attention and state spaces": ("softmax", "linear", "ssd", "s6", "zeros"),
    "the normaliser": (
        "softmax",
        "linear",
        "normalised exp",
        "normalised softplus",
        "normalised sigmoid",
    ),
    "decay and delta rule": (
        "softmax",
        "gla",
        "delta net",
        "metala",
        "metala with key",
        "metala fixed decay",
        "metala plain",
    ),
    "gates of the input": ("softmax", "s6", "quasi-lstm", "quasi-lstm reversed"),
}
"""Softmax is in every panel, for comparison."""


def draw(seen: Summary, folder: Path) -> None:
    """Write both figures, as PNG."""
    for name, sizes, of, label in (
        ("accuracy_by_state", STATES, 0, "state expansion n, at width 64"),
        ("accuracy_by_width", WIDTHS, 1, "width of the model, at n = 16"),
    ):
        figure = Figure(figsize=(15, 4.2), layout="constrained")
        panels = figure.subplots(1, len(PANELS), sharey=True)
        for axes, (title, mixers) in zip(panels, PANELS.items(), strict=True):
            _panel(axes, seen, mixers, sizes, of)
            axes.set(title=title, xlabel=label)
        panels[0].set_ylabel("queries answered, of 4000")
        figure.savefig(folder / f"{name}.png", dpi=130, metadata={"Software": None})


def _panel(axes: Axes, seen: Summary, mixers: Sequence[str], sizes: Sizes, of: int) -> None:
    for place, mixer in enumerate(mixers):
        there = [size for size in sizes if (mixer, *size) in seen]
        aside = 1.0 + 0.03 * (place - len(mixers) / 2)  # dots of two mixers side by side
        colour = "black" if mixer == "softmax" else f"C{place}"
        where = [aside * size[of] for size in there]
        axes.plot(where, [seen[(mixer, *size)].median for size in there], color=colour, label=mixer)
        for x, size in zip(where, there, strict=True):
            dots = seen[(mixer, *size)].accuracies
            axes.plot([x] * len(dots), dots, ".", color=colour, alpha=0.6)
    axes.set_xscale("log", base=2)
    axes.set_xticks([size[of] for size in sizes], [str(size[of]) for size in sizes])
    axes.set_ylim(0, 1.03)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
