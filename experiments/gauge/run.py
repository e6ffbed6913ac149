"""What of a layer's spectrum is a property of its map?

    python -m experiments.gauge.run

Run from the repository, a few seconds; writes ``results.json``, ``figure.png`` and the table of
``README.md``.
"""

import platform
from collections.abc import Mapping
from pathlib import Path
from time import process_time
from typing import Any

import torch

from experiments.gauge.figure import draw
from experiments.gauge.gauges import GAUGES
from experiments.gauge.reading import LAYERS, drawn, measured
from experiments.page import put_into, table
from experiments.training.sweep import write_json

FOLDER = Path(__file__).parent
DRAWN = {"map", "real", "imaginary"}
MOVED = {"map_moved": "map", "hankel_moved": "Hankel values", "mass_moved": "mass by lag"}


def main() -> None:
    """Compute, write, draw."""
    torch.set_num_threads(1)
    started = process_time()
    found = {layer.__name__: measured(drawn(layer)) for layer in LAYERS}
    seconds = round(process_time() - started, 1)
    content = {
        "layers": {name: _kept(layer) for name, layer in found.items()},
        "processor_seconds": seconds,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    write_json(FOLDER / "results.json", content)
    draw(found, FOLDER / "figure.png")
    text = as_table(found)
    put_into(FOLDER / "README.md", text)
    print(f"{text}\n{seconds} s of one core")


def as_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Moduli of the eigenvalues in every gauge, and how far the invariants moved at most."""
    heads = ["layer", "states", *(f"moduli, {gauge}" for gauge in GAUGES)]
    heads += [f"{name} moved by" for name in MOVED.values()]
    rows = []
    for name, layer in found.items():
        read = layer["gauges"]
        moduli = [_span(read[gauge]["moduli"]) for gauge in GAUGES]
        moved = [f"{max(read[gauge][what] for gauge in GAUGES):.0e}" for what in MOVED]
        rows.append([name, str(layer["states"]), *moduli, *moved])
    return table(heads, rows)


def _kept(layer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without the lists that only the figure needs."""
    gauges = {
        gauge: {name: part for name, part in read.items() if name not in DRAWN}
        for gauge, read in layer["gauges"].items()
    }
    return {**layer, "gauges": gauges}


def _span(moduli: list[float]) -> str:
    least, _, most = (f"{modulus:.2f}" for modulus in moduli)
    return least if least == most else f"{least} … {most}"


if __name__ == "__main__":
    main()
