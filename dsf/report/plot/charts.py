"""Charts of numbers along an axis, of one number for every map, and heat maps, all in one style."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Bool, Float, Shaped
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator, NullFormatter
from torch import Tensor

from dsf.report import figure as sheet
from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import agree, at_least

SHEET = Path(__file__).parent / "dsf.mplstyle"
MOST_LINES = 12
SIGNED = LinearSegmentedColormap.from_list("signed", sheet.SHADES)


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
        # Only drawn it has a place.
        cast("Figure", axes.get_figure(root=True)).draw_without_rendering()
        box = legend.get_window_extent()
        paths = (line.get_transform().transform_path(line.get_path()) for line in axes.lines)
        if any(path.intersects_bbox(box, filled=False) for path in paths):
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def array(numbers: Any) -> np.ndarray:
    return numbers.numpy(force=True) if isinstance(numbers, Tensor) else np.asarray(numbers)


Numbers = Shaped[Tensor, "..."] | np.ndarray


def _lines(
    owner: str,
    values: Numbers,
    labels: Sequence[str] | None,
    axes: Axes | None,
    *,
    first: int = 0,
    level: float | int | None = None,
    **look: Any,
) -> Axes:
    """Draw a line for every batch entry, over numbers from ``first`` on, and one at a ``level``."""
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
    _check_labels(owner, labels, len(lines), "lines")
    axes = on(axes)
    names: Sequence[str | None] = labels or [None] * len(lines)
    for line, name in zip(lines, names, strict=True):
        axes.plot(np.arange(first, first + len(line)), line, label=name, **look)
    if level is not None:
        axes.axhline(level, color="#4a4a4a", linewidth=0.8, linestyle=":")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return axes


def _check_labels(owner: str, labels: Sequence[str] | None, count: int, what: str) -> None:
    if labels is not None and len(labels) != count:
        raise ValueError(
            f"{owner}: 'labels' must name each of the {count} {what}, but there are {len(labels)}."
        )


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
    few = array(values).shape[-1:] <= (40,)
    axes = _lines("per_token", values, labels, axes, level=target, marker="." if few else None)
    keyed(axes, labels)
    return worded(axes, title=title, x=x, y=label)


@checked
def by_lag(
    mass: Numbers,
    *,
    labels: Sequence[str] | None = None,
    title: str = "",
    axes: Axes | None = None,
) -> Axes:
    """The mean weight of a map at every lag, the number of tokens from key to query.

    It shows how a layer forgets, independently of the basis of its state: an exponential decay is a
    straight line, a map that never forgets a horizontal one.

    Args:
        mass: the result of ``dsf.measures.mass_by_lag``; zeros are not drawn.

    Example:
        >>> import torch
        >>> axes = by_lag(torch.tensor([1.0, 0.5, 0.25]), labels=["decay 0.5"])
        >>> axes.get_xlabel(), axes.get_yscale()
        ('lag (tokens)', 'log')
    """
    axes = per_token(
        mass, label="mean |weight|", labels=labels, x="lag (tokens)", title=title, axes=axes
    )
    axes.set_yscale("log", nonpositive="mask")
    keyed(axes, labels)  # the lines have moved
    return axes


@checked
def spectrum(
    values: Numbers,
    *,
    label: str = "Hankel singular value",
    labels: Sequence[str] | None = None,
    title: str = "",
    axes: Axes | None = None,
) -> Axes:
    """Singular values, largest first, on a logarithmic axis; a line for every batch entry.

    Example:
        >>> import torch
        >>> axes = spectrum(torch.tensor([1.0, 0.1, 1e-9]))
        >>> axes.get_xlabel(), axes.lines[0].get_xdata().tolist()
        ('number', [1, 2, 3])
    """
    axes = _lines("spectrum", values, labels, axes, first=1, marker=".")
    axes.set_yscale("log", nonpositive="mask")
    keyed(axes, labels)
    return worded(axes, title=title, x="number", y=label)


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
    _check_labels("per_map", labels, len(numbers), "maps")
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
def complex_plane(
    values: Shaped[Tensor, "..."] | np.ndarray,
    *,
    title: str = "",
    axes: Axes | None = None,
) -> Axes:
    """Eigenvalues and the unit circle.

    The eigenvalues of A_t depend on the basis of the state. ``by_lag`` and ``spectrum`` show
    quantities that depend on the map alone.

    Example:
        >>> import torch
        >>> axes = complex_plane(torch.tensor([0.5 + 0.5j, 0.5 - 0.5j]))
        >>> axes.get_xlabel(), axes.get_ylabel()
        ('real part', 'imaginary part')
    """
    axes = on(axes)
    numbers = array(values).reshape(-1)
    axes.add_patch(Circle((0, 0), 1, fill=False, color="#4a4a4a", linewidth=0.8))
    axes.plot(numbers.real, numbers.imag, linestyle="", marker="o", alpha=0.6)
    axes.set_aspect("equal", adjustable="datalim")
    return worded(axes, title=title, x="real part", y="imaginary part")


Matrix = Float[Tensor, "rows columns"] | Float[np.ndarray, "rows columns"]


@checked
def heat_map(  # noqa: PLR0913  # words of the picture
    map: Numbers,
    *,
    title: str = "",
    masked: Bool[np.ndarray, "rows columns"] | None = None,
    tokens: Sequence[str] | None = None,
    axes: Axes | None = None,
    label: str | None = "weight",
    x: str = "key",
    y: str = "query",
) -> Axes:
    """One map: rows are queries, columns are keys; blue is negative, white zero, red positive.

    The colour scale is symmetric about zero and reaches the largest finite magnitude. Weights that
    are not finite are green.

    Args:
        map: real weights; of a complex map pass the magnitudes or the real part.
        masked: cells that are masked, drawn grey.
        tokens: texts for both axes, drawn for up to 40 tokens.
        label: the label of the colour bar, with the unit in brackets if it has one; or None.
        x, y: the labels of the axes.

    Raises:
        ValueError: if ``map`` is not one real matrix, or has not one token for each text.

    Example:
        >>> import torch
        >>> axes = heat_map(torch.tensor([[1.0, 0.0], [-0.5, 1.5]]), title="two tokens")
        >>> axes.get_xlabel(), axes.images[0].get_clim()
        ('key', (-1.5, 1.5))
    """
    weights = array(map)
    if weights.ndim != 2 or np.iscomplexobj(weights):
        raise ValueError(
            f"heat_map: 'map' must be one real matrix, but it is {weights.dtype} of shape "
            f"{weights.shape}. Pick one map, such as layer.map()[0, 3]."
        )
    if tokens is not None:
        agree("heat_map", "token", rows=weights.shape[0], columns=weights.shape[1])
        agree("heat_map", "token", texts=len(tokens), rows=weights.shape[0])
    axes, odd = on(axes), ~np.isfinite(weights)
    hidden = odd if masked is None else odd | masked
    reach = float(np.abs(weights[~odd]).max(initial=0.0)) or 1.0
    axes.set_facecolor(sheet.MASKED_COLOUR)
    image = axes.imshow(
        np.ma.masked_array(weights, hidden),
        cmap=SIGNED,
        vmin=-reach,
        vmax=reach,
        interpolation="none",  # vector formats keep every cell sharp
    )
    if odd.any():
        axes.imshow(np.ma.masked_array(odd, ~odd), cmap=ListedColormap([sheet.NOT_FINITE]))
    axes.set(xticks=[], yticks=[])
    if tokens is not None and len(tokens) <= sheet.LABELLED:
        texts, size = sheet.labels_of(tokens)
        how: dict[str, Any] = {"fontsize": size, "family": sheet.families(), "parse_math": False}
        axes.set_xticks(range(len(texts)), texts, rotation=90, **how)
        axes.set_yticks(range(len(texts)), texts, **how)
        axes.tick_params(length=0, pad=2)
    axes.grid(visible=False)
    with style():
        if label is not None:
            axes.figure.colorbar(image, ax=axes, label=label, shrink=0.8)
        axes.set_title(sheet.written(title), family=sheet.families(), parse_math=False)
        axes.set(xlabel=x, ylabel=y)
    return axes


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
        label: the label of the colour bars, to the right of the last map of every row.

    Raises:
        ValueError: if ``maps`` is empty, or ``columns`` is below 1.

    Example:
        >>> import torch
        >>> left, right = heat_maps({"keeps": torch.eye(3), "mixes": torch.ones(3, 3)})
        >>> left.get_title(), right.get_title()
        ('keeps', 'mixes')
    """
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
