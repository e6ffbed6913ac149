"""Maps as coloured squares."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from dsf.plot.drawing_style import on, panels, style, worded
from dsf.report.figure import draw_map

Matrix = Float[Tensor, "rows columns"] | Float[np.ndarray, "rows columns"]


def heat_map(
    map: Matrix,
    *,
    title: str = "",
    tokens: Sequence[str] | None = None,
    axes: Axes | None = None,
    label: str = "weight",
    x: str = "token read",
    y: str = "token written",
) -> Axes:
    """One map: row i is written, column j is read. Blue subtracts, white is zero, red adds.

    The colour bar reaches to the largest magnitude, both ways.

    Args:
        tokens: texts for both axes, drawn up to 40.
        label: what the colours mean, with its unit if it has one.

    Raises:
        ValueError: for anything but one real matrix.

    Example:
        >>> import torch
        >>> axes = heat_map(torch.tensor([[1.0, 0.0], [-0.5, 1.5]]), title="two tokens")
        >>> axes.get_xlabel(), axes.images[0].get_clim()
        ('token read', (-1.5, 1.5))
    """
    axes = on(axes)
    image = draw_map(axes, map, title=title, tokens=tokens)
    axes.grid(visible=False)
    with style():
        axes.figure.colorbar(image, ax=axes, label=label, shrink=0.8)
    return worded(axes, title=title, x=x, y=y)


def heat_maps(
    maps: Mapping[str, Matrix], *, tokens: Sequence[str] | None = None, columns: int = 4
) -> list[Axes]:
    """Several maps beside each other, every one with colours of its own.

    Args:
        maps: title and map.
        tokens: texts for the axes of the first map.
        columns: how many stand in one row.

    Raises:
        ValueError: without a map.

    Example:
        >>> import torch
        >>> left, right = heat_maps({"keeps": torch.eye(3), "mixes": torch.ones(3, 3)})
        >>> left.get_title(), right.get_title()
        ('keeps', 'mixes')
    """
    if not maps:
        raise ValueError("heat_maps: needs at least one map, but 'maps' is empty.")
    across = min(columns, len(maps))
    down = -(-len(maps) // across)
    places = panels(down, across, size=(2.7 * across + 0.4, 2.5 * down))
    for place in places[len(maps) :]:
        place.set_axis_off()
    drawn = []
    for place, (title, map) in zip(places, maps.items(), strict=False):
        named = tokens if place is places[0] else None
        drawn.append(heat_map(map, title=title, tokens=named, axes=place, label=""))
    return drawn
