"""Bar charts of one number for every map, and histograms."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped
from matplotlib.axes import Axes
from torch import Tensor

from dsf.report.plot.drawing_style import array, on, worded
from dsf.runtime.argument_checks import checked

Numbers = Shaped[Tensor, "..."] | np.ndarray


@checked
def per_map(
    values: Numbers | Sequence[float | int] | float | int,
    *,
    label: str,
    labels: Sequence[str] | None = None,
    target: float | int | None = None,
    title: str = "",
    axes: Axes | None = None,
) -> Axes:
    """One number for every map of a batch, as bars. Two batch axes are numbered together.

    Args:
        label: the name of the numbers, with the unit in brackets if they have one.
        labels: a name for each map, such as those of layers or heads.
        target: a reference value, drawn as a horizontal line.

    Raises:
        ValueError: if the numbers are complex, or ``labels`` has another length.

    Example:
        >>> import torch
        >>> axes = per_map(torch.tensor([3, 7]), label="half-life (tokens)",
        ...                labels=["head 0", "head 1"])
        >>> axes.get_ylabel(), [float(bar.get_height()) for bar in axes.patches]
        ('half-life (tokens)', [3.0, 7.0])
    """
    numbers = array(values).reshape(-1)
    if np.iscomplexobj(numbers):
        raise ValueError(
            "per_map: 'values' must be real, but they are complex. Pass their magnitudes."
        )
    if labels is not None and len(labels) != len(numbers):
        raise ValueError(
            f"per_map: 'labels' must name each of the {len(numbers)} maps, but there are "
            f"{len(labels)}."
        )
    axes = on(axes)
    axes.bar(np.arange(len(numbers)), numbers, color="#0072B2", width=0.7)
    if labels is not None:
        turned = len(numbers) > 4 or max(len(name) for name in labels) > 10
        rotation, side = (30, "right") if turned else (0, "center")
        axes.set_xticks(np.arange(len(numbers)), labels, rotation=rotation, ha=side)
    if target is not None:
        axes.axhline(target, color="#4a4a4a", linewidth=0.8, linestyle=":")
    axes.axhline(0, color="#4a4a4a", linewidth=0.8)
    axes.grid(visible=False, axis="x")
    return worded(axes, title=title, x="" if labels else "map", y=label)


@checked
def histogram(
    values: Numbers,
    *,
    label: str,
    counted: str = "pairs",
    bins: int = 40,
    title: str = "",
    axes: Axes | None = None,
) -> Axes:
    """A histogram of numbers, such as distances of rows, where confused queries are at zero.

    Args:
        label: the name of the numbers, with the unit in brackets if they have one.
        counted: what is counted, as the label of the vertical axis.

    Example:
        >>> import torch
        >>> axes = histogram(torch.tensor([0.0, 0.0, 1.0]), label="distance of rows", bins=2)
        >>> axes.get_ylabel(), [float(bar.get_height()) for bar in axes.patches]
        ('pairs', [2.0, 1.0])
    """
    axes = on(axes)
    axes.hist(array(values).reshape(-1), bins=bins, color="#0072B2", edgecolor="white")
    return worded(axes, title=title, x=label, y=counted)
