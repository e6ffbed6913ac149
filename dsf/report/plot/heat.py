"""Heat maps of attention maps and other matrices."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from dsf.report.figure import draw_map
from dsf.report.plot.drawing_style import on, panels, style, worded
from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import at_least, of_kind

Matrix = Float[Tensor, "rows columns"] | Float[np.ndarray, "rows columns"]


def heat_map(
    map: Matrix,
    *,
    title: str = "",
    tokens: Sequence[str] | None = None,
    axes: Axes | None = None,
    label: str = "weight",
    x: str = "key",
    y: str = "query",
) -> Axes:
    """One map: rows are queries, columns are keys; blue is negative, white zero, red positive.

    The colour scale is symmetric about zero and reaches the largest magnitude.

    Args:
        tokens: texts for both axes, drawn for up to 40 tokens.
        label: the label of the colour bar, with the unit in brackets if it has one.
        x, y: the labels of the axes.

    Raises:
        ValueError: if ``map`` is not one real matrix, or has not one token for each text.

    Example:
        >>> import torch
        >>> axes = heat_map(torch.tensor([[1.0, 0.0], [-0.5, 1.5]]), title="two tokens")
        >>> axes.get_xlabel(), axes.images[0].get_clim()
        ('key', (-1.5, 1.5))
    """
    axes = on(axes)
    image = draw_map(axes, map, title=title, tokens=tokens)
    axes.grid(visible=False)
    with style():
        axes.figure.colorbar(image, ax=axes, label=label, shrink=0.8)
    return worded(axes, title=title, x=x, y=y)


@checked
def heat_maps(
    maps: Mapping[str, Matrix],
    *,
    tokens: Sequence[str] | None = None,
    columns: int = 4,
    label: str = "weight",
) -> list[Axes]:
    """Several maps in one figure, each with its own colour scale.

    Args:
        maps: a map for every title.
        tokens: texts for the axes of the first map.
        columns: the number of maps in one row.
        label: the label of the colour bars, beside the last of every row.

    Raises:
        ValueError: if ``maps`` is empty, or no map stands in a row.

    Example:
        >>> import torch
        >>> left, right = heat_maps({"keeps": torch.eye(3), "mixes": torch.ones(3, 3)})
        >>> left.get_title(), right.get_title()
        ('keeps', 'mixes')
    """
    of_kind("heat_maps", "maps", maps, Mapping, "maps by their titles, as in {'layer 0': map}")
    at_least(1, "heat_maps", "columns", columns)
    if not maps:
        raise ValueError("heat_maps: needs at least one map, but 'maps' is empty.")
    across = min(columns, len(maps))
    down = -(-len(maps) // across)
    places = panels(down, across, size=(2.7 * across + 0.4, 2.5 * down))
    for place in places[len(maps) :]:
        place.set_axis_off()
    drawn = []
    for number, (title, map) in enumerate(maps.items(), 1):
        named = tokens if number == 1 else None
        said = label if number % across == 0 or number == len(maps) else ""
        drawn.append(heat_map(map, title=title, tokens=named, axes=places[number - 1], label=said))
    return drawn
