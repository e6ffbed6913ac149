"""One row a layer: its map, its spectra, and what all gauges agree on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dsf.report.plot import heat_map
from dsf.runtime.files import replace_file

STYLES = {
    "own states": {"color": "C0", "marker": "o", "markersize": 5, "fillstyle": "none"},
    "random states": {"color": "C1", "marker": ".", "markersize": 3},
    "undone decay": {"color": "C2", "marker": "x", "markersize": 4},
}
TITLES = (
    "map, own states",
    "map, random states",
    "eigenvalues of all A_t",
    "Hankel singular values",
    "mean |weight| by lag",
)


def draw(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """All layers on one page."""
    figure = Figure(figsize=(13, 2.1 * len(found)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(found), len(TITLES), squeeze=False)
    for line, (name, layer) in zip(grid, found.items(), strict=True):
        _row(line, name, layer)
    for axes, title in zip(grid[0], TITLES, strict=True):
        axes.set_title(title, fontsize=10)
    handles, labels = grid[0][2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(STYLES))
    replace_file(path, lambda draft: figure.savefig(draft, dpi=90))


def _row(line: np.ndarray, name: str, layer: Mapping[str, Any]) -> None:
    before, after, spectrum, hankel, mass = line
    for axes, gauge in ((before, "own states"), (after, "random states")):
        heat_map(np.array(layer["gauges"][gauge]["map"]), axes=axes, label=None, x="", y="")
    before.set_ylabel(f"{name}\n{layer['states']} states", fontsize=8)
    angles = np.linspace(0, 2 * np.pi, 200)
    spectrum.plot(np.cos(angles), np.sin(angles), color="grey", linewidth=0.5)
    for gauge, style in STYLES.items():
        read = layer["gauges"][gauge]
        spectrum.plot(read["real"], read["imaginary"], linestyle="", label=gauge, **style)
        hankel.plot(_above(read["hankel"]), linestyle="", **style)
        mass.plot(_above(read["mass_by_lag"]), linestyle="", **style)
    spectrum.set_aspect("equal", adjustable="datalim")
    spectrum.tick_params(labelsize=7)
    _logarithmic(hankel, "from the largest, 0, on")
    _logarithmic(mass, "lag in tokens")


def _logarithmic(axes: Axes, label: str) -> None:
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(label, fontsize=8)
    axes.tick_params(labelsize=7)


def _above(values: list[float]) -> list[float]:
    """Without what is rounding beside the largest."""
    floor = 1e-12 * max(values)
    return [value for value in values if value > floor]
