"""Train InLine attention in windows, hybrids of it, and zero-sum attention as an encoder.

    python -m papers.in_line.experiments.windows.run

Run from the repository. Data, model and schedule are those of ``experiments/digits``, whose
accuracies of global attention are in the table for comparison. Finished runs are kept in ``runs``.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float, Shaped
from matplotlib.figure import Figure
from torch import Tensor, nn

from dsf.layers import Layer, ZeroSumAttention
from dsf.mixers import Mixer
from experiments.page import put_into, table
from experiments.training.examples import accuracy, batches
from experiments.training.fit import fit
from experiments.training.sweep import Result, gather, sweep, write_json
from papers.in_line.experiments.digits import settings as of_digits
from papers.in_line.experiments.digits.digits import GRID, digits
from papers.in_line.experiments.digits.run import BATCH, SCHEDULE
from papers.in_line.experiments.digits.vision import (
    DEPTH,
    HEADS,
    WIDTH,
    Attention,
    VisionTransformer,
)

FOLDER = Path(__file__).parent
SIDE = 4
"""Width and height of a window, in tokens; the image has four of them."""


class Windowed(nn.Module):
    """An attention whose tokens read their own window of the image alone."""

    def __init__(self, attention: Layer) -> None:
        super().__init__()
        self.attention = attention

    def mixer(self, x: Float[Tensor, "batch time model"]) -> Mixer:
        """The mixer of every window, windows along the batch."""
        return self.attention.mixer(windows(x))

    def finish(
        self, x: Float[Tensor, "batch time model"], mixed: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "batch time model"]:
        """The output of every token, in the order of the image."""
        return image(self.attention.finish(windows(x), mixed))


def windows(x: Float[Tensor, "batch time model"]) -> Float[Tensor, "parts window model"]:
    """Tokens of each window, row by row."""
    rows, columns = (size // SIDE for size in GRID)
    split = x.unflatten(1, (rows, SIDE, columns, SIDE))
    return split.transpose(2, 3).flatten(0, 2).flatten(1, 2)


def image(parts: Float[Tensor, "parts window model"]) -> Float[Tensor, "batch time model"]:
    """What ``windows`` took apart."""
    rows, columns = (size // SIDE for size in GRID)
    split = parts.unflatten(0, (-1, rows, columns)).unflatten(3, (SIDE, SIDE))
    return split.transpose(2, 3).flatten(1, 4)


def _softmax() -> Layer:
    return of_digits.ATTENTIONS["softmax"]()


def _in_line() -> Layer:
    return of_digits.ATTENTIONS["in-line-identity"]()


def _zero_sum() -> Layer:
    return ZeroSumAttention(WIDTH, heads=HEADS, causal=False)


VARIANTS: dict[str, tuple[Callable[[], nn.Module], ...]] = {
    "softmax in windows": (lambda: Windowed(_softmax()),) * DEPTH,
    "InLine in windows": (lambda: Windowed(_in_line()),) * DEPTH,
    "InLine, last block softmax in windows": (
        *(_in_line,) * (DEPTH - 1),
        lambda: Windowed(_softmax()),
    ),
    "InLine, two blocks softmax in windows": (
        *(_in_line,) * (DEPTH // 2),
        *(lambda: Windowed(_softmax()),) * (DEPTH - DEPTH // 2),
    ),
    "zero-sum": (_zero_sum,) * DEPTH,
}
"""The attention of every block, first block first. The hybrids follow the InLine models of Swin-T
(three stages InLine, the last softmax) and of Swin-S (two and two): early blocks read the whole
image, late ones their window."""

GLOBAL = {"softmax": "softmax", "InLine": "in-line-identity"}
"""Trained in ``experiments/digits``, under these names."""


@dataclass(frozen=True)
class Setting:
    """One run."""

    variant: str
    seed: int


def settings() -> dict[str, Setting]:
    """All runs by the name of their file."""
    return {
        f"{variant}-{seed}".replace(" ", "_"): Setting(variant, seed)
        for seed in of_digits.SEEDS
        for variant in VARIANTS
    }


def run(setting: Setting) -> Result:
    """Train one model; the share of test images that it classifies."""
    data = digits()
    torch.manual_seed(setting.seed)
    model = built(setting.variant)
    drawn = batches(data.trained, size=BATCH, seed=setting.seed)
    *_, progress = fit(model, drawn, data.checked, SCHEDULE)
    return {
        "variant": setting.variant,
        "seed": setting.seed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "processor_seconds": round(progress.seconds, 1),
        "accuracy": accuracy(model, data.tested),
    }


def built(variant: str) -> VisionTransformer:
    """The model at its first step."""
    blocks = iter(VARIANTS[variant])

    def attention() -> Attention:
        return cast("Attention", next(blocks)())

    return VisionTransformer(attention, residual=False)


def report() -> None:
    """Write ``results.json``, the table and the figure."""
    runs = gather(settings(), FOLDER / "runs")
    write_json(FOLDER / "results.json", runs)
    known = json.loads((FOLDER.parent / "digits" / "results.json").read_text())["digits"]
    found = {name: known[key]["accuracies"] for name, key in GLOBAL.items()}
    for one in runs.values():
        found.setdefault(one["variant"], []).append(one["accuracy"])
    rows = [
        [name, " ".join(f"{100 * seed:.1f}" for seed in seeds)] for name, seeds in found.items()
    ]
    put_into(FOLDER / "README.md", table(["attention", "accuracy, seeds in order"], rows))
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots()
    for place, seeds in enumerate(found.values()):
        axes.plot([100 * seed for seed in seeds], [place] * len(seeds), "o", color="C0", alpha=0.7)
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy, per cent; a dot for each seed")
    figure.savefig(FOLDER / "accuracies.png", dpi=130, metadata={"Software": None})


def main() -> None:
    """Do the runs that are missing, and write what all of them found."""
    torch.set_num_threads(1)
    sweep(run, settings(), FOLDER / "runs")
    report()


if __name__ == "__main__":
    main()
