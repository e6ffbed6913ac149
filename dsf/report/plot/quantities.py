"""A table of the label, unit and picture of every measure, and ``draw``, which uses it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from dsf import measures
from dsf.report.plot.charts import (
    by_lag,
    complex_plane,
    heat_map,
    histogram,
    per_map,
    per_token,
    rank_profile,
    spectrum,
)
from dsf.runtime.argument_checks import checked

Picture = Callable[..., Axes]
WORDED = (per_token, per_map, histogram)


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
    """The rank of [K, 1], with the full rank as reference."""
    return per_map(found.rank, target=found.full, **options)


def _gramian(gramian: Any, **options: Any) -> Axes:
    """One Gramian, such as ``gramians[t]``."""
    return heat_map(gramian, label="energy", x="state", y="state", **options)


QUANTITIES: Mapping[Callable[..., Any], Quantity] = {
    measures.absolute_gain: Quantity("gain, largest to largest", per_map),
    measures.colliding_query: Quantity("colliding query", per_token, x="coordinate"),
    measures.column_norms: Quantity("column norm", per_token, x="key"),
    measures.column_sums: Quantity("column sum", per_token, x="key"),
    measures.confusions: Quantity("confused queries", per_map, unit="pairs"),
    measures.controllability_gramians: Quantity("controllability", _gramian),
    measures.convexity_defect: Quantity("distance from a convex row", per_token),
    measures.distance_ratios: Quantity("distance of rows / distance of queries", histogram),
    measures.effective_rank: Quantity("effective rank", per_map),
    measures.effective_tokens: Quantity("effective number of keys", per_token, unit="tokens"),
    measures.energy_gain: Quantity("gain, energy to energy", per_map),
    measures.forgetting: Quantity("share of a write left", per_token, x="lag, one of those asked"),
    measures.interference: Quantity("lost to other tokens", per_token),
    measures.overwritten: Quantity("overwritten by later tokens", per_token),
    measures.erased_by: Quantity("energy erased of all before", per_token),
    measures.occupancy: Quantity("share of the states in use", per_token),
    measures.retained: Quantity("share that can be read", per_token),
    measures.state_norm: Quantity("norm of the state", per_token),
    measures.half_life: Quantity("half-life", per_map, unit="tokens"),
    measures.hankel_ranks: Quantity("states needed", rank_profile),
    measures.hankel_singular_values: Quantity("Hankel singular value", spectrum),
    measures.jacobian_rank: Quantity("rank of the Jacobian", per_token, x="query"),
    measures.key_rank: Quantity("rank of [K, 1]", _key_rank),
    measures.largest_ahead: Quantity("largest weight ahead", per_map),
    measures.largest_difference: Quantity("largest difference", per_map),
    measures.lyapunov_exponents: Quantity(
        "Lyapunov exponent", per_token, unit="nats per token", x="direction", target=0.0
    ),
    measures.map_distance: Quantity("distance, relative", per_map),
    measures.mass_by_lag: Quantity("mean |weight|", by_lag),
    measures.mean_distance: Quantity("mean distance", per_token, unit="tokens"),
    measures.memory_horizon: Quantity("memory horizon", per_map, unit="tokens"),
    measures.negative_entries: Quantity("share of negative entries", per_map),
    measures.negative_mass: Quantity("negative mass", per_map),
    measures.negative_share: Quantity("negative share", per_map),
    measures.neighbourhood_mass: Quantity("mass on the neighbourhood", per_token),
    measures.observability_gramians: Quantity("observability", _gramian),
    measures.product_norms: Quantity("norm of A_t ... A_1", per_token),
    measures.row_entropy: Quantity("row entropy", per_token, unit="nats"),
    measures.row_norms: Quantity("row norm", per_token),
    measures.row_sum_spread: Quantity("spread of row sums", per_map),
    measures.row_sums: Quantity("row sum", per_token, target=1.0),
    measures.off_diagonal_energy: Quantity("energy off the diagonal", per_map),
    measures.previous_token: Quantity("weight on the token before", per_map),
    measures.duplicate_token: Quantity("weight on earlier copies", per_map),
    measures.induction: Quantity("weight on what followed earlier copies", per_map),
    measures.first_token: Quantity("weight on the first token", per_map),
    measures.self_token: Quantity("weight on the token itself", per_map),
    measures.needle: Quantity("weight of one token on another", per_map),
    measures.copying: Quantity("copying", per_map),
    measures.sink_mass: Quantity("mass on the sink", per_map),
    measures.sink_rate: Quantity("share of maps with a sink", per_map),
    measures.smallest_entry: Quantity("smallest entry", per_map),
    measures.states_needed: Quantity("states needed", per_map, unit="states"),
    measures.transition_eigenvalues: Quantity("eigenvalues of A_t", complex_plane),
    measures.uniform_neighbourhood: Quantity("uniform neighbourhood mass", per_map),
    measures.uniform_share: Quantity("uniform share of the energy", per_token),
    measures.uniformity_gap: Quantity("distance from uniform", per_token),
    measures.window_mass: Quantity("mass on the window", per_token),
    measures.window_sums: Quantity("signed sum on the window", per_token),
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
    if quantity.picture in (spectrum, _gramian):
        words["title"] = quantity.label
    return quantity.picture(numbers, axes=axes, **{**words, **options})
