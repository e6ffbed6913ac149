"""The style of all pictures, new axes in that style, and checks of the numbers to draw."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Shaped
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from torch import Tensor

from dsf.runtime.argument_checks import checked

SHEET = Path(__file__).parent / "dsf.mplstyle"
MOST_LINES = 12


def style() -> AbstractContextManager[None]:
    """The style sheet of this package, for pictures of your own.

    >>> import matplotlib.pyplot as plt
    >>> with style():
    ...     figure, axes = plt.subplots()
    >>> bool(axes.spines["top"].get_visible())
    False
    >>> plt.close(figure)
    """
    return cast("AbstractContextManager[None]", plt.style.context(SHEET))


def on(axes: Axes | None) -> Axes:
    """``axes``, or new ones in the style of this package."""
    return panels(1, 1)[0] if axes is None else axes


@checked
def panels(down: int, across: int, *, size: tuple[float, float] | None = None) -> list[Axes]:
    """New axes of one figure in the style of this package, row by row; ``size`` in inches.

    Every function of ``dsf.report.plot`` takes ``axes``, so that pictures can share a figure.
    Figures that are no longer needed should be closed with ``plt.close``.

    >>> left, right = panels(1, 2, size=(8.0, 3.0))
    >>> left.figure is right.figure
    True
    """
    with style(), plt.rc_context({"figure.max_open_warning": 0}):
        grid = plt.subplots(down, across, squeeze=False, figsize=size)[1]
    return cast("list[Axes]", grid.flatten().tolist())


def worded(axes: Axes, *, title: str, x: str, y: str) -> Axes:
    """``axes`` with a title and axis labels. A dollar sign in the title is not taken for math."""
    with style():
        axes.set_title(title, parse_math=False)
        axes.set(xlabel=x, ylabel=y)
    return axes


def keyed(axes: Axes, labels: Sequence[str] | None) -> None:
    """Add a legend if there are labels, outside the axes where it would cover a line."""
    if not labels:
        return
    with style():
        legend = axes.legend()
        if _covers_a_line(legend, axes):
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _covers_a_line(legend: Legend, axes: Axes) -> bool:
    cast("Figure", axes.get_figure(root=True)).draw_without_rendering()  # only now it has a place
    box = legend.get_window_extent()
    paths = (line.get_transform().transform_path(line.get_path()) for line in axes.lines)
    return any(path.intersects_bbox(box, filled=False) for path in paths)


def array(numbers: Any) -> np.ndarray:
    """A tensor, array, list or number as a NumPy array."""
    return numbers.numpy(force=True) if isinstance(numbers, Tensor) else np.asarray(numbers)


def lines_of(
    owner: str, values: Shaped[Tensor, "..."] | np.ndarray, labels: Sequence[str] | None
) -> tuple[np.ndarray, Sequence[str | None]]:
    """One line for every batch entry, and a label for each.

    Raises:
        ValueError: if ``values`` is a single number or complex, or has more than 12 lines, or if
            ``labels`` has another length.
    """
    numbers = array(values)
    if numbers.ndim == 0 or np.iscomplexobj(numbers):
        raise ValueError(
            f"{owner}: 'values' must be real numbers along an axis, but they are {numbers.dtype} "
            f"of shape {numbers.shape}. For complex numbers pass the magnitudes."
        )
    lines = numbers.reshape(-1, numbers.shape[-1])
    if len(lines) > MOST_LINES:
        raise ValueError(
            f"{owner}: 'values' of shape {numbers.shape} are {len(lines)} lines, but no more than "
            f"{MOST_LINES} can be distinguished. Select some, such as values[0], or take a mean."
        )
    if labels is not None and len(labels) != len(lines):
        raise ValueError(
            f"{owner}: 'labels' must name each of the {len(lines)} lines, but there are "
            f"{len(labels)}."
        )
    return lines, labels or [None] * len(lines)
