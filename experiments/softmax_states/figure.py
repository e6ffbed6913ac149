"""Error against states, one panel a group of heads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dsf.runtime.files import replace_file

STYLES = {
    "at_least": {"label": "no system of n states below", "color": "black", "linestyle": "--"},
    "reduced": {"label": "system reduced to n states", "color": "C0", "marker": "o"},
    "series": {"label": "monomials up to order 0, 1, 2, ...", "color": "C1", "marker": "s"},
    "random_features": {"label": "positive random features", "color": "C2", "marker": "^"},
}
COLUMNS = 3


def draw(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """All groups on one page, medians over heads between their extremes."""
    rows = -(-len(found) // COLUMNS)
    figure = Figure(figsize=(4.2 * COLUMNS, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, COLUMNS, sharey=True, squeeze=False).flat
    for axes, (name, group) in zip(panels, found.items(), strict=False):
        _panel(axes, group, title=f"{name}, {group['tokens']} tokens")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(STYLES))
    replace_file(path, lambda draft: figure.savefig(draft, dpi=100))


def _panel(axes: Axes, group: Mapping[str, Any], *, title: str) -> None:
    for kind, style in STYLES.items():
        states, errors = np.array(group[kind]["states"]), np.array(group[kind]["errors"])
        axes.plot(states, np.median(errors, axis=1), markersize=4, **style)
        low, high = errors.min(axis=1), errors.max(axis=1)
        axes.fill_between(states, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.axvline(group["tokens"] // 2, color="grey", linewidth=0.8, linestyle=":")
    axes.set(
        xscale="log",
        yscale="log",
        ylim=(1e-5, 10),
        title=title,
        xlabel="states n",
        ylabel="relative error of the map",
    )
    axes.title.set_fontsize("medium")
