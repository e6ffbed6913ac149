"""The classification as a matrix: one row for every mixer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from experiments.training.sweep import replace_file
from papers.meta_linear.experiments.conditions.printed import PRINTED

COLUMNS = (
    "Q",
    "K",
    r"$\Lambda_t$",
    "C0 bounded state",
    "C1 dynamic memory",
    "C2 static approximation",
    "C3 fewest",
)
ACTS = 3


def draw(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Dark where it is so; a dot where the paper says yes, a ring where it says no."""
    values = np.array([_row(each) for each in found.values()])
    figure = Figure(figsize=(6.4, 0.24 * len(values) + 1.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(values, cmap=ListedColormap(["#eef2f6", "#3879b5"]), vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(COLUMNS)), COLUMNS, rotation=40, ha="left")
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(found)), [_name(*each) for each in found.items()], fontsize=8)
    axes.set_xticks(np.arange(len(COLUMNS)) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(found)) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.axvline(ACTS - 0.5, color="black", linewidth=1)
    for place, name in enumerate(found):
        letters = PRINTED[name].letters if name in PRINTED else ""
        for column, letter in enumerate(letters, start=ACTS):
            if letter != ".":
                face = "black" if letter == "y" else "none"
                axes.scatter(column, place, s=18, facecolor=face, edgecolor="black", linewidth=0.8)
    replace_file(path, lambda draft: figure.savefig(draft, dpi=110))


def _row(found: Mapping[str, Any]) -> list[bool]:
    acts = [found[part] for part in ("query", "key", "decay")]
    return [*acts, *(letter == "y" for letter in found["letters"])]


def _name(name: str, found: Mapping[str, Any]) -> str:
    return f"{name} *" if found["elsewhere"] else name
