"""Pictures of tables, of several architectures, and of the result of every measure (``draw``)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from dsf import measures
from dsf.inspection.results import measurements
from dsf.inspection.results.layers import Inspection
from dsf.inspection.results.measurements import measured
from dsf.inspection.results.table import KINDS, NUMBERS, Table
from dsf.report.plot import charts
from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import at_least

ACROSS = ("head", "channel")
COMPARED = ("mean_distance", "half_life", "mean_effective_tokens", "sink_mass", "negative_share")
MOST_NAMES = 40
WIDTH, HEIGHT = 3.0, 2.4


@checked
def layers_and_heads(
    table: Table, quantity: str, *, title: str = "", axes: Axes | None = None
) -> Axes:
    """One quantity of a table as a picture: layers down, heads (or channels) across.

    Several samples are averaged first. Rows of layers without heads, and places without a number,
    are left empty.

    Args:
        table: such as ``inspection.measure()``, ``inspection.heads()`` or the summary of a job.
        quantity: a name in the column ``quantity``, ``score`` or ``property``.

    Raises:
        ValueError: if the table has no such quantity, or nothing of it has heads or channels.
        TypeError: if it is not a table.

    Example:
        >>> from dsf.inspection.results.table import Table
        >>> record = {"layer": "a", "head": 0, "quantity": "half_life", "value": 3.0}
        >>> axes = layers_and_heads(Table((record,)), "half_life")
        >>> axes.get_xlabel(), axes.images[0].get_array().tolist()
        ('head', [[3.0]])
    """
    kinds = [kind for kind in KINDS if kind in table.columns]
    chosen = next((some for kind in kinds if (some := table.where(**{kind: quantity}))), None)
    if chosen is None:
        known = dict.fromkeys(row[kind] for row in table for kind in KINDS if kind in row)
        raise ValueError(
            f"layers_and_heads: the table has no {quantity!r}; it has "
            f"{', '.join(known) or 'nothing'}."
        )
    across = next((name for name in ACROSS if name in chosen.columns), None)
    if across is None:
        raise ValueError(
            f"layers_and_heads: {quantity!r} has neither heads nor channels in this table; its "
            f"columns are {', '.join(chosen.columns)}."
        )
    layers = tuple(dict.fromkeys(row["layer"] for row in chosen))
    mean = Table(tuple(row for row in chosen if across in row)).mean(by=("layer", across))
    heads = tuple(dict.fromkeys(row[across] for row in mean))
    axes = charts.on(axes)
    found = np.full((len(layers), len(heads)), math.nan)
    for row in mean:
        number = next(row[name] for name in NUMBERS if name in row)
        found[layers.index(row["layer"]), heads.index(row[across])] = number
    finite = found[np.isfinite(found)]
    scale = Normalize(finite.min(), finite.max()) if finite.size else Normalize(0, 1)
    with charts.style():
        image = axes.imshow(found, aspect="auto", cmap="viridis", norm=scale)
        axes.figure.colorbar(image, ax=axes, label=quantity, shrink=0.8)
        if len(layers) <= MOST_NAMES:
            axes.set_yticks(range(len(layers)), layers)
        if len(heads) <= MOST_NAMES:
            axes.set_xticks(range(len(heads)), heads)
    axes.grid(visible=False)
    return charts.worded(axes, title=title or quantity, x=across, y="")


@checked
def architectures(
    models: Mapping[str, Inspection | Table],
    *,
    quantities: str | Sequence[str] = COMPARED,
    columns: int = 3,
) -> list[Axes]:
    """Several architectures in one figure: every quantity over the depth of the model.

    A line is the mean over samples and heads of a layer, the band around it reaches from the
    smallest to the largest of them. Depth runs from 0, the first layer, to 1, the last, so that
    models with different numbers of layers can be compared.

    Args:
        models: inspections, or tables that ``measure`` returned, by the names of the legend.
        quantities: what is compared; one name or several of ``Inspection.measure``.
        columns: number of panels in one row.

    Raises:
        ValueError: if there is no model or quantity, a quantity is not known, or a table does not
            have it.
        TypeError: if models is not a dictionary of inspections and tables.

    Example:
        >>> import dsf, torch
        >>> from dsf.models import folder, recall
        >>> tokens = recall.draw(torch.Generator().manual_seed(0), samples=1).tokens
        >>> names = "llama", "mamba2"
        >>> found = {name: dsf.inspect(folder(name), input_ids=tokens) for name in names}
        >>> [axes.get_ylabel() for axes in architectures(found, quantities=["half_life"])]
        ['half_life']
    """
    _check_models(models)
    at_least(1, "architectures", "columns", columns)
    quantities = (quantities,) if isinstance(quantities, str) else tuple(quantities)
    if not models or not quantities:
        raise ValueError("architectures: needs at least one model and one quantity.")
    if odd := [name for name in quantities if name not in measurements.QUANTITIES]:
        raise ValueError(
            f"architectures: quantities has {odd[0]!r}; choose among "
            f"{', '.join(measurements.QUANTITIES)}."
        )
    wanted = {name: measurements.QUANTITIES[name] for name in quantities}
    tables = {
        name: measured(tuple(found), wanted) if isinstance(found, Inspection) else found
        for name, found in models.items()
    }
    for name, table in tables.items():
        known = {row.get("quantity"): None for row in table}
        if missing := [each for each in quantities if each not in known]:
            raise ValueError(
                f"architectures: {name!r} has no {missing[0]!r}; its table has "
                f"{', '.join(map(str, known)) or 'nothing'}. Give the inspection itself, or "
                f"inspection.measure({missing[0]!r})."
            )
    across = min(columns, len(quantities))
    down = -(-len(quantities) // across)
    places = charts.panels(down, across, size=(WIDTH * across + 0.6, HEIGHT * down + 0.4))
    for place in places[len(quantities) :]:
        place.set_axis_off()
    for axes, quantity in zip(places, quantities, strict=False):
        for number, (name, table) in enumerate(tables.items()):
            _line(axes, table.where(quantity=quantity), name, f"C{number}")
        charts.worded(axes, title="", x="depth", y=quantity)
    if len(places) > len(quantities):
        lines, names = places[0].get_legend_handles_labels()
        with charts.style():
            places[len(quantities)].legend(lines, names, loc="upper left")
    else:
        charts.keyed(
            places[across - 1], list(tables)
        )  # at the last of the row, where it needs room
    return places[: len(quantities)]


def _check_models(models: Mapping[str, Inspection | Table]) -> None:
    for name, found in models.items():
        if not isinstance(found, Inspection | Table):
            raise TypeError(
                f"architectures: {name!r} is {type(found).__name__}, but an inspection or a table "
                "is wanted."
            )


def _line(axes: Axes, table: Table, name: str, colour: str) -> None:
    by_layer: dict[str, list[float]] = {}
    for row in table:
        by_layer.setdefault(row["layer"], []).append(float(row["value"]))
    finite = [[number for number in row if math.isfinite(number)] for row in by_layer.values()]
    rows = [row or [math.nan] for row in finite]
    depth = [k / max(len(rows) - 1, 1) for k in range(len(rows))]
    axes.plot(depth, [sum(row) / len(row) for row in rows], ".-", label=name, color=colour)
    low, high = [min(row) for row in rows], [max(row) for row in rows]
    axes.fill_between(depth, low, high, color=colour, alpha=0.15, linewidth=0)


Picture = Callable[..., Axes]
WORDED = (charts.per_token, charts.per_map)


@dataclass(frozen=True)
class Quantity:
    """How the numbers of one measure are drawn.

    Attributes:
        label: the label of the axis.
        picture: the function that draws them.
        unit: the unit of the numbers; empty for a ratio.
        x: the axis that the numbers run along, if that is not the query.
        target: a reference value.
    """

    label: str
    picture: Picture
    unit: str = ""
    x: str | None = None
    target: float | int | None = None

    @property
    def named(self) -> str:
        """The label with its unit, where it has one."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


def _key_rank(found: Any, **options: Any) -> Axes:
    return charts.per_map(found.rank, target=found.full, **options)


def _gramian(gramian: Any, **options: Any) -> Axes:
    return charts.heat_map(gramian, label="energy", x="state", y="state", **options)


QUANTITIES: Mapping[Callable[..., Any], Quantity] = {
    measures.absolute_gain: Quantity("gain, largest to largest", charts.per_map),
    measures.colliding_query: Quantity("colliding query", charts.per_token, x="coordinate"),
    measures.column_norms: Quantity("column norm", charts.per_token, x="key"),
    measures.column_sums: Quantity("column sum", charts.per_token, x="key"),
    measures.confusions: Quantity("confused queries", charts.per_map, unit="pairs"),
    measures.controllability_gramians: Quantity("controllability", _gramian),
    measures.convexity_defect: Quantity("distance from a convex row", charts.per_token),
    measures.distance_ratios: Quantity("distance of rows / distance of queries", charts.per_map),
    measures.effective_rank: Quantity("effective rank", charts.per_map),
    measures.effective_tokens: Quantity(
        "effective number of keys", charts.per_token, unit="tokens"
    ),
    measures.energy_gain: Quantity("gain, energy to energy", charts.per_map),
    measures.forgetting: Quantity(
        "share of a write left", charts.per_token, x="lag, one of those asked"
    ),
    measures.interference: Quantity("lost to other tokens", charts.per_token),
    measures.overwritten: Quantity("overwritten by later tokens", charts.per_token),
    measures.erased_by: Quantity("energy erased of all before", charts.per_token),
    measures.occupancy: Quantity("share of the states in use", charts.per_token),
    measures.retained: Quantity("share that can be read", charts.per_token),
    measures.state_norm: Quantity("norm of the state", charts.per_token),
    measures.half_life: Quantity("half-life", charts.per_map, unit="tokens"),
    measures.hankel_ranks: Quantity("states needed", charts.per_token, x="after token"),
    measures.hankel_singular_values: Quantity("Hankel singular value", charts.spectrum),
    measures.jacobian_rank: Quantity("rank of the Jacobian", charts.per_token, x="query"),
    measures.key_rank: Quantity("rank of [K, 1]", _key_rank),
    measures.largest_ahead: Quantity("largest weight ahead", charts.per_map),
    measures.largest_difference: Quantity("largest difference", charts.per_map),
    measures.lyapunov_exponents: Quantity(
        "Lyapunov exponent", charts.per_token, unit="nats per token", x="direction", target=0.0
    ),
    measures.map_distance: Quantity("distance, relative", charts.per_map),
    measures.mass_by_lag: Quantity("mean |weight|", charts.by_lag),
    measures.mean_distance: Quantity("mean distance", charts.per_token, unit="tokens"),
    measures.memory_horizon: Quantity("memory horizon", charts.per_map, unit="tokens"),
    measures.negative_entries: Quantity("share of negative entries", charts.per_map),
    measures.negative_mass: Quantity("negative mass", charts.per_map),
    measures.negative_share: Quantity("negative share", charts.per_map),
    measures.neighbourhood_mass: Quantity("mass on the neighbourhood", charts.per_token),
    measures.observability_gramians: Quantity("observability", _gramian),
    measures.product_norms: Quantity("norm of A_t ... A_1", charts.per_token),
    measures.row_entropy: Quantity("row entropy", charts.per_token, unit="nats"),
    measures.row_norms: Quantity("row norm", charts.per_token),
    measures.row_sum_spread: Quantity("spread of row sums", charts.per_map),
    measures.row_sums: Quantity("row sum", charts.per_token, target=1.0),
    measures.off_diagonal_energy: Quantity("energy off the diagonal", charts.per_map),
    measures.previous_token: Quantity("weight on the token before", charts.per_map),
    measures.duplicate_token: Quantity("weight on earlier copies", charts.per_map),
    measures.induction: Quantity("weight on what followed earlier copies", charts.per_map),
    measures.first_token: Quantity("weight on the first token", charts.per_map),
    measures.self_token: Quantity("weight on the token itself", charts.per_map),
    measures.needle: Quantity("weight of one token on another", charts.per_map),
    measures.copying: Quantity("copying", charts.per_map),
    measures.sink_mass: Quantity("mass on the sink", charts.per_map),
    measures.sink_rate: Quantity("share of maps with a sink", charts.per_map),
    measures.smallest_entry: Quantity("smallest entry", charts.per_map),
    measures.states_needed: Quantity("states needed", charts.per_map, unit="states"),
    measures.transition_eigenvalues: Quantity("eigenvalues of A_t", charts.complex_plane),
    measures.uniform_neighbourhood: Quantity("uniform neighbourhood mass", charts.per_map),
    measures.uniform_share: Quantity("uniform share of the energy", charts.per_token),
    measures.uniformity_gap: Quantity("distance from uniform", charts.per_token),
    measures.window_mass: Quantity("mass on the window", charts.per_token),
    measures.window_sums: Quantity("signed sum on the window", charts.per_token),
}
"""The entry of every measure in ``dsf.measures``."""


@checked
def draw(
    measure: Callable[..., Any], numbers: Any, *, axes: Axes | None = None, **options: Any
) -> Axes:
    """Draw the result of ``measure`` as its entry in ``QUANTITIES`` says, with label and unit.

    Args:
        measure: the function of ``dsf.measures`` that returned the numbers.
        numbers: its result.
        axes: the axes to draw on; by default new ones.
        options: options of the function that draws, such as ``labels`` or ``title``.

    Raises:
        ValueError: if ``measure`` is not in ``QUANTITIES``.

    Example:
        >>> import torch
        >>> from dsf import measures
        >>> map = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
        >>> axes = draw(measures.row_entropy, measures.row_entropy(map))
        >>> axes.get_ylabel()
        'row entropy (nats)'
    """
    quantity = QUANTITIES.get(measure)
    if quantity is None:
        name = getattr(measure, "__name__", measure)
        raise ValueError(
            f"draw: 'measure' must be a function of dsf.measures, but it is {name}. Draw numbers "
            f"of your own with per_token, per_map, curves or heat_map."
        )
    words: dict[str, Any] = {}
    if quantity.picture in (*WORDED, _key_rank):
        words["label"] = quantity.named
    if quantity.x is not None:
        words["x"] = quantity.x
    if quantity.target is not None:
        words["target"] = quantity.target
    if quantity.picture in (charts.spectrum, _gramian):
        words["title"] = quantity.label
    return quantity.picture(numbers, axes=axes, **{**words, **options})
