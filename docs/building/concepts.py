"""The figures of the concept pages, drawn by the library when the pages are built."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

import dsf
from docs.building.pictures import file_of, one
from dsf import measures
from dsf.report import plot
from dsf.systems.algebra import change_of_basis

STEPS = 16


def pages() -> Iterator[tuple[str, bytes]]:
    """A picture for each page."""
    for draw in (systems, maps, gauge, memory):
        yield f"concepts/{draw.__name__}.png", file_of(draw())


def _rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


STRUCTURES = {
    "scaled identity": dsf.mixers.Retention,
    "diagonal": dsf.mixers.GatedLinearAttention,
    "diagonal plus low rank": dsf.mixers.DeltaNet,
    "shift": dsf.mixers.ShortConvolution,
    "small, for every coordinate": dsf.mixers.Mamba3,
    "dense": dsf.mixers.ElmanRNN,
}
"""The rows of the table of the page, each with an architecture."""


def systems() -> Figure:
    """One A_t of every structure."""
    rng = _rng()
    drawn = {name: kind.draw(rng, steps=2).system().A for name, kind in STRUCTURES.items()}
    axes = plot.heat_maps(
        {name: one(A.dense()[..., 1, :, :]) for name, A in drawn.items()}, columns=3, label="entry"
    )
    for each in axes:
        each.set(xlabel="state before", ylabel="state after")
    return axes[0].figure


def maps() -> Figure:
    """The same axes for three architectures."""
    rng = _rng()
    names = ("SoftmaxAttention", "SelectiveStateSpace", "GatedDeltaNet")
    drawn = {
        name: one(dsf.attention_map(getattr(dsf.mixers, name).draw(rng, steps=STEPS).system()))
        for name in names
    }
    return plot.heat_maps(drawn)[0].figure


def gauge() -> Figure:
    """Two systems: other eigenvalues, the same map."""
    rng = _rng()
    system = dsf.mixers.GatedLinearAttention.draw(rng, steps=STEPS).system()
    turn = torch.randn(2, STEPS + 1, 4, 4, generator=rng, dtype=torch.float64)
    other = change_of_basis(system, turn + 2 * torch.eye(4, dtype=turn.dtype))
    panels = plot.panels(2, 2, size=(8.4, 6.4))
    for at, (name, each) in enumerate({"as written": system, "other states": other}.items()):
        values = measures.transition_eigenvalues(each)[0].flatten()
        plot.complex_plane(values, title=f"{name}: eigenvalues of A", axes=panels[2 * at])
        plot.heat_map(one(dsf.attention_map(each)), title=f"{name}: map", axes=panels[2 * at + 1])
    return panels[0].figure


def memory() -> Figure:
    """Ranks of Hankel blocks, and the error of smaller systems."""
    rng = _rng()
    linear = dsf.mixers.LinearAttention.draw(rng, steps=STEPS).system()
    softmax = dsf.mixers.SoftmaxAttention.draw(rng, steps=STEPS).system()
    left, right = plot.panels(1, 2, size=(9, 3.6))
    ranks = torch.stack([measures.hankel_ranks(each)[0] for each in (linear, softmax)])
    labels = ["linear attention", "softmax attention"]
    plot.draw(
        measures.hankel_ranks, ranks, labels=labels, axes=left, title="States that any system needs"
    )
    map = one(dsf.attention_map(softmax))
    orders = list(range(1, 8))
    found = [dsf.evaluate.reduce(map, order=order) for order in orders]
    errors = [float(each.error / each.size) for each in found]
    plot.curves(
        orders,
        {"softmax attention": errors},
        x_label="states kept",
        y_label="error of the map (relative)",
        title="Fewer states",
        logarithmic="y",
        axes=right,
    )
    plt.close("all")
    return right.figure
