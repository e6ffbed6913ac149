"""The figures of the page, drawn from its results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.training.sweep import replace_file
from papers.zero_sum.experiments.ablation import contrast


def draw(results: Mapping[str, Any], folder: Path) -> None:
    """Write ``contrast.png``, ``ablation.png`` and ``curves.png``."""
    for name, figure in (
        ("contrast.png", _contrast(results["contrast"])),
        ("ablation.png", _ablation(results["ablation"])),
        ("curves.png", _curves(results["curves"])),
    ):
        with matplotlib.rc_context({"savefig.dpi": 110, "savefig.bbox": "tight"}):
            replace_file(folder / name, lambda draft, it=figure: it.savefig(draft, format="png"))


def _contrast(runs: list[Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, target in zip(figure.subplots(1, 2, sharey=True), contrast.TARGETS, strict=True):
        chosen = [run for run in runs if run["target"] == target]
        for place, head in enumerate(contrast.HEADS):
            errors = [run["error"] for run in chosen if run["head"] == head]
            axes.plot(errors, [place] * len(errors), "o", color="C0", alpha=0.6)
        for (kind, floor), style in zip(chosen[0]["floors"].items(), ("-", "--", ":"), strict=True):
            if floor > LEAST:
                axes.axvline(floor, color="C3", linestyle=style, label=f"floor, {kind}")
        axes.set(title=target, xscale="log", xlabel="squared error over the target's energy")
        axes.set_yticks(range(len(contrast.HEADS)), contrast.HEADS)
        axes.legend(fontsize=8)
    return figure


LEAST = 1e-9
"""Floors below are zero."""


def _ablation(runs: list[Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for place, variant in enumerate(dict.fromkeys(run["variant"] for run in runs)):
        for run in (run for run in runs if run["variant"] == variant):
            label = variant if run["seed"] == 0 else None
            axes.plot(run["steps"], run["checked"], color=f"C{place}", label=label, alpha=0.8)
    axes.set(xlabel="steps", ylabel="queries answered", title="recall, orders on and off")
    axes.legend(fontsize=8)
    return figure


def _curves(curves: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _draw_dilution(left, curves["dilution"], curves["largest_weight"])
    orders = curves["orders"]
    for name, slope in zip(("second", "third"), orders["slopes"], strict=True):
        label = f"before the {name} order, slope {slope:.2f}"
        middle.loglog(orders["scales"], orders[name], "o-", label=label)
    middle.set(
        title="what is left of softmax", xlabel="scale of the logits", ylabel="largest entry"
    )
    for name, norms in curves["growth"]["norms"].items():
        right.loglog(curves["growth"]["scales"], norms, label=name)
    right.set(title="64 unit values", xlabel="scale of the logits", ylabel="output norm")
    for axes in (left, middle, right):
        axes.legend(fontsize=7)
    return figure


def _draw_dilution(axes: Axes, shares: Mapping[str, Any], largest: Mapping[str, Any]) -> None:
    axes.semilogx(shares["tokens"], shares["uniform_share"], "o-", label="softmax: uniform share")
    axes.axhline(shares["limit"], color="C0", linestyle=":")
    axes.semilogx(largest["tokens"], largest["t_max_w"], "s-", label="ZeroS: t max|w|")
    axes.axhline(largest["limit"], color="C1", linestyle=":")
    axes.set(title="longer rows", xlabel="tokens t", ylim=(0, None))
