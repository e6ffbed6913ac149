"""Measures: numbers that describe a map or a system, one file for each question."""

from dsf.measures.distance import largest_difference, map_distance
from dsf.measures.erasers import erased_by
from dsf.measures.gain import absolute_gain, column_norms, energy_gain, row_norms
from dsf.measures.gramians import controllability_gramians, observability_gramians
from dsf.measures.hankel import hankel_ranks, hankel_singular_values, states_needed
from dsf.measures.head_scores import (
    copying,
    duplicate_token,
    first_token,
    induction,
    needle,
    previous_token,
    self_token,
)
from dsf.measures.injectivity import (
    colliding_query,
    confusions,
    distance_ratios,
    jacobian_rank,
    key_rank,
)
from dsf.measures.locality import (
    half_life,
    mass_by_lag,
    mean_distance,
    neighbourhood_mass,
    uniform_neighbourhood,
    window_mass,
    window_sums,
)
from dsf.measures.off_diagonal import off_diagonal_energy
from dsf.measures.passes import Streamed, streamed
from dsf.measures.signs import (
    convexity_defect,
    negative_entries,
    negative_mass,
    negative_share,
    smallest_entry,
)
from dsf.measures.sinks import sink_mass, sink_rate
from dsf.measures.spread import (
    effective_rank,
    effective_tokens,
    row_entropy,
    uniform_share,
    uniformity_gap,
)
from dsf.measures.stability import (
    lyapunov_exponents,
    memory_horizon,
    product_norms,
    transition_eigenvalues,
)
from dsf.measures.state_use import (
    forgetting,
    interference,
    occupancy,
    overwritten,
    retained,
    state_norm,
)
from dsf.measures.sums import column_sums, largest_ahead, row_sum_spread, row_sums

__all__ = [
    "Streamed",
    "absolute_gain",
    "colliding_query",
    "column_norms",
    "column_sums",
    "confusions",
    "controllability_gramians",
    "convexity_defect",
    "copying",
    "distance_ratios",
    "duplicate_token",
    "effective_rank",
    "effective_tokens",
    "energy_gain",
    "erased_by",
    "first_token",
    "forgetting",
    "half_life",
    "hankel_ranks",
    "hankel_singular_values",
    "induction",
    "interference",
    "jacobian_rank",
    "key_rank",
    "largest_ahead",
    "largest_difference",
    "lyapunov_exponents",
    "map_distance",
    "mass_by_lag",
    "mean_distance",
    "memory_horizon",
    "needle",
    "negative_entries",
    "negative_mass",
    "negative_share",
    "neighbourhood_mass",
    "observability_gramians",
    "occupancy",
    "off_diagonal_energy",
    "overwritten",
    "previous_token",
    "product_norms",
    "retained",
    "row_entropy",
    "row_norms",
    "row_sum_spread",
    "row_sums",
    "self_token",
    "sink_mass",
    "sink_rate",
    "smallest_entry",
    "state_norm",
    "states_needed",
    "streamed",
    "transition_eigenvalues",
    "uniform_neighbourhood",
    "uniform_share",
    "uniformity_gap",
    "window_mass",
    "window_sums",
]
