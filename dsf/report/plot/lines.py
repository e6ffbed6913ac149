"""Line charts of numbers along an axis: tokens, lags, states, or any other."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullFormatter
from torch import Tensor

from dsf.report.plot.drawing_style import array, keyed, lines_of, on, worded
from dsf.runtime.argument_checks import checked

Numbers = Shaped[Tensor, "..."] | np.ndarray


@checked
def per_token(
    values: Numbers,
    *,
    label: str,
    labels: Sequence[str] | None = None,
    target: float | int | None = None,
    x: str = "token",
    title: str = "",
    axes: Axes | None = None,
) -> Axes:
    """One number for every token, a line for every batch entry.

    Args:
        label: the name of the numbers, with the unit in brackets if they have one.
        labels: a name for each line.
        target: a reference value, drawn as a horizontal line.

    Raises:
        ValueError: if the numbers are complex or make more than 12 lines, or ``labels`` has another
            length.

    Example:
        >>> import torch
        >>> axes = per_token(torch.tensor([0.0, 1.0, 1.5]), label="mean distance (tokens)")
        >>> axes.get_xlabel(), axes.get_ylabel()
        ('token', 'mean distance (tokens)')
    """
    axes = on(axes)
    lines, names = lines_of("per_token", values, labels)
    for line, name in zip(lines, names, strict=True):
        axes.plot(np.arange(len(line)), line, label=name, marker="." if len(line) <= 40 else None)
    if target is not None:
        axes.axhline(target, color="#4a4a4a", linewidth=0.8, linestyle=":")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    keyed(axes, labels)
    return worded(axes, title=title, x=x, y=label)


@checked
def by_lag(
    mass: Numbers,
    *,
    labels: Sequence[str] | None = None,
    logarithmic: bool = True,
    title: str = "",
    axes: Axes | None = None,
) -> Axes:
    """The mean weight of a map at every lag, the number of tokens from key to query.

    It shows how a layer forgets, independently of the basis of its state: an exponential decay is a
    straight line, a map that never forgets a horizontal one.

    Args:
        mass: the result of ``dsf.measures.mass_by_lag``.
        logarithmic: whether the vertical axis is logarithmic; zeros are not drawn on it.

    Example:
        >>> import torch
        >>> axes = by_lag(torch.tensor([1.0, 0.5, 0.25]), labels=["decay 0.5"])
        >>> axes.get_xlabel(), axes.get_yscale()
        ('lag (tokens)', 'log')
    """
    axes = per_token(
        mass, label="mean |weight|", labels=labels, x="lag (tokens)", title=title, axes=axes
    )
    if logarithmic:
        axes.set_yscale("log", nonpositive="mask")
        keyed(axes, labels)  # the lines have moved
    return axes


@checked
def spectrum(
    values: Numbers,
    *,
    label: str = "Hankel singular value",
    labels: Sequence[str] | None = None,
    floor: float | None = None,
    title: str = "",
    axes: Axes | None = None,
) -> Axes:
    """Singular values, largest first, on a logarithmic axis; a line for every batch entry.

    Args:
        floor: the rounding level, drawn as a horizontal line; values below it are noise.

    Example:
        >>> import torch
        >>> axes = spectrum(torch.tensor([1.0, 0.1, 1e-9]), floor=1e-12)
        >>> axes.get_xlabel(), axes.lines[0].get_xdata().tolist()
        ('number', [1, 2, 3])
    """
    axes = on(axes)
    lines, names = lines_of("spectrum", values, labels)
    for line, name in zip(lines, names, strict=True):
        axes.plot(np.arange(1, len(line) + 1), line, label=name, marker=".")
    axes.set_yscale("log", nonpositive="mask")
    if floor is not None:
        axes.axhline(floor, color="#4a4a4a", linewidth=0.8, linestyle=":")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    keyed(axes, labels)
    return worded(axes, title=title, x="number", y=label)


@checked
def rank_profile(
    ranks: Numbers,
    *,
    labels: Sequence[str] | None = None,
    title: str = "",
    axes: Axes | None = None,
) -> Axes:
    """The number of states that a map needs after each token: the ranks of its Hankel blocks.

    Example:
        >>> import torch
        >>> axes = rank_profile(torch.tensor([1, 2, 2, 1]), labels=["softmax"])
        >>> axes.get_xlabel(), axes.get_ylabel()
        ('after token', 'states needed')
    """
    axes = on(axes)
    lines, names = lines_of("rank_profile", ranks, labels)
    for line, name in zip(lines, names, strict=True):
        axes.step(np.arange(len(line)), line, where="mid", label=name)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_ylim(bottom=0)
    keyed(axes, labels)
    return worded(axes, title=title, x="after token", y="states needed")


@checked
def curves(
    x: Numbers | Sequence[float | int],
    lines: Mapping[str, Any],
    *,
    x_label: str,
    y_label: str,
    logarithmic: str = "",
    title: str = "",
    axes: Axes | None = None,
) -> Axes:
    """Named curves over one axis, with a marker at every number.

    Args:
        x_label, y_label: axis labels, with the unit in brackets if there is one.
        logarithmic: the logarithmic axes: ``""``, ``"x"``, ``"y"`` or ``"xy"``.

    Raises:
        ValueError: if a curve has another length than ``x``.

    Example:
        >>> axes = curves([1, 2, 4], {"error": [1, 0.1, 0.001]}, x_label="states",
        ...               y_label="error", logarithmic="xy")
        >>> axes.get_xscale(), [text.get_text() for text in axes.get_legend().get_texts()]
        ('log', ['error'])
    """
    axes = on(axes)
    places = array(x)
    for name, numbers in lines.items():
        line = array(numbers)
        if line.shape != places.shape:
            raise ValueError(
                f"curves: '{name}' has the shape {line.shape}, but 'x' has {places.shape}."
            )
        axes.plot(places, line, label=name, marker=".")
    if "x" in logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    if "y" in logarithmic:
        axes.set_yscale("log", nonpositive="mask")
    keyed(axes, list(lines))
    return worded(axes, title=title, x=x_label, y=y_label)
