"""Draw ``maps.png`` and ``maps-narrow.png``: one map of each embedded model, on one recall prompt.

    python docs/images/make_maps.py

The narrow picture has two maps in a row and no token labels, which a phone could not show.

A ring marks where a key that comes back should attend to: the value that once followed it. Of each
model the map with most of its weight there is drawn, for Qwen3-Next among its delta rules.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dsf import models
from dsf.cli.demo import SEED
from dsf.inspection import InspectedLayer, inspect
from dsf.loading import load_model
from dsf.mixers import GatedDeltaNet
from dsf.models import recall
from dsf.report.plot import heat_map

HERE = Path(__file__).resolve().parent
TITLES = {
    "llama": "Llama: softmax attention",
    "mamba": "Mamba: selective state space",
    "mamba2": "Mamba-2: state space duality",
    "qwen3_next": "Qwen3-Next: gated delta rule",
}
PANEL = 2.4  # inches; the titles are read at half that size
NARROW = 3.6  # inches; read at its own size
Chosen = tuple[InspectedLayer, np.ndarray]


def main(folder: Path) -> None:
    drawn = recall.draw(torch.Generator().manual_seed(SEED), 1)
    chosen = {name: choose(name, drawn) for name in models.NAMES}
    figure = Figure(figsize=(PANEL * len(chosen), PANEL + 0.65), layout="constrained")
    panels = figure.subplots(1, len(chosen))
    for axes, name in zip(panels, chosen, strict=True):
        draw_model(axes, TITLES[name], chosen[name], drawn, tokens=recall.spell(drawn.tokens[0]))
    panels[0].set_ylabel("query (token written to)", fontsize=9)
    figure.supxlabel("key (token read)", fontsize=9)
    figure.savefig(folder / "maps.png", dpi=200)
    narrow(chosen, drawn).savefig(folder / "maps-narrow.png", dpi=200)


def narrow(chosen: dict[str, Chosen], drawn: recall.Recall) -> Figure:
    """Two maps in a row, in letters that can be read on a page of 350 pixels."""
    figure = Figure(figsize=(NARROW, NARROW + 0.5), layout="constrained")
    panels = figure.subplots(2, 2)
    for axes, name in zip(panels.flat, chosen, strict=True):
        draw_model(axes, TITLES[name].replace(": ", ":\n"), chosen[name], drawn, tokens=None)
        axes.set(xticks=[], yticks=[])
    figure.supylabel("query (token written to)", fontsize=9)
    figure.supxlabel("key (token read)", fontsize=9)
    return figure


def where_the_answers_stand(drawn: recall.Recall) -> list[tuple[int, int]]:
    """Places (query, value) of the one sequence."""
    tokens, targets = drawn.tokens[0].tolist(), drawn.targets[0].tolist()
    return [(at, tokens.index(it)) for at, it in enumerate(targets) if it != recall.SILENT]


def choose(name: str, drawn: recall.Recall) -> Chosen:
    """The layer and its map with most of its weight on the answers."""
    layers = [
        layer
        for layer in inspect(load_model(models.folder(name)).model, input_ids=drawn.tokens)
        if name != "qwen3_next" or isinstance(layer.mixer, GatedDeltaNet)
    ]
    answers = where_the_answers_stand(drawn)
    return max(
        ((layer, map) for layer in layers for map in maps_of(layer)),
        key=lambda pair: share_on(pair[1], answers),
    )


def draw_model(
    axes: Axes, title: str, chosen: Chosen, drawn: recall.Recall, *, tokens: list[str] | None
) -> None:
    layer, map = chosen
    ahead = np.triu(np.ones(map.shape, dtype=bool), 1)
    title = f"{title}\nreproduced to {layer.error:.0e}"
    heat_map(map, title=title, masked=ahead, tokens=tokens, axes=axes, label=None, x="", y="")
    rows, columns = zip(*where_the_answers_stand(drawn), strict=True)
    axes.scatter(
        columns,
        rows,
        s=70 if tokens else 35,
        facecolors="none",
        edgecolors="#1b1e24",
        linewidths=1.1,
    )
    for spine in axes.spines.values():
        spine.set_visible(False)


def maps_of(layer: InspectedLayer) -> list[np.ndarray]:
    """Every map of a layer on its own."""
    return list(layer.map().flatten(0, -3).numpy(force=True))


def share_on(map: np.ndarray, answers: list[tuple[int, int]]) -> float:
    """The part of the weight in the queries' rows that lies on the answers."""
    rows, columns = np.array(answers).T
    return float(np.abs(map[rows, columns]).sum() / np.abs(map[rows]).sum())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
