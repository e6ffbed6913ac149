"""Draw ``states.png``: what the states of two embedded Mamba models hold.

    python docs/images/make_states.py

The recall model reads one of its prompts, the text model the passage that comes with the package.
Of each the first layer is drawn as ``dsf.report.report_state`` draws it.
"""

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from dsf.cli.demo import SEED
from dsf.inspection import inspect
from dsf.loading import load_model
from dsf.models import folder, recall, text
from dsf.report.plot import StateReport, report_state

HERE = Path(__file__).resolve().parent


def reports() -> list[StateReport]:
    """Of the recall model and of the text model."""
    drawn = recall.draw(torch.Generator().manual_seed(SEED), 1)
    reader = load_model(folder("text_mamba"))
    passage = torch.tensor([reader.tokenizer.encode(text.PASSAGE)])
    return [
        report_state(inspect(load_model(folder("mamba")).model, input_ids=drawn.tokens)),
        report_state(inspect(reader.model, input_ids=passage)),
    ]


def main(path: Path) -> None:
    found = [as_pixels(report.figure(report.layers[0].name)) for report in reports()]
    height, width, _ = found[0].shape
    figure = Figure(figsize=(width / 130, len(found) * height / 130), dpi=130)
    for place, (pixels, name) in enumerate(zip(found, ("recall", "text"), strict=True)):
        bottom = (len(found) - 1 - place) / len(found)
        axes = figure.add_axes((0, bottom, 1, 1 / len(found)))
        axes.imshow(pixels, aspect="auto")
        axes.set_axis_off()
        axes.text(0.01, 0.97, name, transform=axes.transAxes, va="top", fontsize=9)
    figure.savefig(path, dpi=130)


def as_pixels(figure: Figure) -> np.ndarray:
    held = BytesIO()
    figure.savefig(held, format="png", dpi=130)
    held.seek(0)
    return imread(held)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "states.png")
