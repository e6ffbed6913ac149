"""The pictures of the gallery, drawn by ``dsf.report.plot``: same system, same bytes."""

from io import BytesIO

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

import dsf
from dsf import measures
from dsf.report import plot

mpl.use("agg")
DPI = 90


def overview(system: dsf.System) -> bytes:
    """Map and Hankel singular values side by side."""
    left, right = plot.panels(1, 2, size=(8.0, 3.5))
    plot.heat_map(one(dsf.attention_map(system)), axes=left)
    values = measures.hankel_singular_values(system, positions=[system.steps // 2 - 1])
    plot.spectrum(first(values, 1), axes=right, title="Past to future")
    return file_of(right.figure)


def tile(system: dsf.System) -> bytes:
    """The map alone, small."""
    figure = plt.figure(figsize=(1.5, 1.5))
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
    plot.heat_map(one(dsf.attention_map(system)), axes=axes, label=None, x="", y="")
    return file_of(figure)


def one(maps: torch.Tensor) -> torch.Tensor:
    """The first map of a batch."""
    return first(maps, 2)


def first(numbers: torch.Tensor, axes: int) -> torch.Tensor:
    """The first entry along all but the last axes."""
    return numbers.flatten(0, -axes - 1)[0] if numbers.ndim > axes else numbers


def file_of(figure: Figure) -> bytes:
    """The bytes of a picture."""
    kept = BytesIO()
    figure.savefig(kept, dpi=DPI, metadata={"Software": None})
    plt.close(figure)
    return kept.getvalue()
