"""The look of every picture, and the axes it is drawn on."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Shaped
from matplotlib.axes import Axes
from torch import Tensor

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
    """``axes``, or new ones in the look of this package."""
    return panels(1, 1)[0] if axes is None else axes


def panels(down: int, across: int, *, size: tuple[float, float] | None = None) -> list[Axes]:
    """New axes of one figure in the look of this package, row by row; ``size`` in inches.

    For pictures beside each other: every function of this room takes ``axes``. A program that makes
    many figures closes them (``plt.close``).

    >>> left, right = panels(1, 2, size=(8.0, 3.0))
    >>> left.figure is right.figure
    True
    """
    with style(), plt.rc_context({"figure.max_open_warning": 0}):
        grid = plt.subplots(down, across, squeeze=False, figsize=size)[1]
    return cast("list[Axes]", grid.flatten().tolist())


def worded(axes: Axes, *, title: str, x: str, y: str) -> Axes:
    """``axes`` with their words. A dollar sign in a title is a dollar sign."""
    with style():
        axes.set_title(title, parse_math=False)
        axes.set(xlabel=x, ylabel=y)
    return axes


def keyed(axes: Axes, labels: Sequence[str] | None) -> None:
    """A legend, where there is something to tell apart."""
    if labels:
        with style():
            axes.legend()


def array(numbers: Any) -> np.ndarray:
    """A tensor, an array, a list or a number as an array."""
    return numbers.numpy(force=True) if isinstance(numbers, Tensor) else np.asarray(numbers)


def lines_of(
    owner: str, values: Shaped[Tensor, "..."] | np.ndarray, labels: Sequence[str] | None
) -> tuple[np.ndarray, Sequence[str | None]]:
    """One line for every batch entry, and a label for each.

    Raises:
        ValueError: for a single number, for complex numbers, for more lines than an eye tells
            apart, and for labels that do not fit.
    """
    numbers = array(values)
    if numbers.ndim == 0 or np.iscomplexobj(numbers):
        raise ValueError(
            f"{owner}: 'values' must be real numbers along an axis, but they are {numbers.dtype} "
            f"of shape {numbers.shape}. Of complex numbers pass the magnitudes."
        )
    lines = numbers.reshape(-1, numbers.shape[-1])
    if len(lines) > MOST_LINES:
        raise ValueError(
            f"{owner}: 'values' of shape {numbers.shape} are {len(lines)} lines, and nobody tells "
            f"more than {MOST_LINES} apart. Pick some, such as values[0], or take a mean."
        )
    if labels is not None and len(labels) != len(lines):
        raise ValueError(
            f"{owner}: 'labels' must name each of the {len(lines)} lines, but there are "
            f"{len(labels)}."
        )
    return lines, labels or [None] * len(lines)
