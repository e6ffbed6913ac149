"""The quantities that are measured of every map, by name; needs no torch."""

from collections.abc import Mapping

WINDOW = 8
"""Tokens, of ``window_mass``."""
RANK = "middle_hankel_rank"

MEASURES: Mapping[str, str] = {
    "mean_row_sum": "row_sums",
    "row_sum_spread": "row_sum_spread",
    "negative_share": "negative_share",
    "smallest_entry": "smallest_entry",
    "mean_convexity_defect": "convexity_defect",
    f"mean_window_mass_{WINDOW}": "window_mass",
    "mean_distance": "mean_distance",
    "half_life": "half_life",
    "mean_effective_tokens": "effective_tokens",
    "mean_uniform_share": "uniform_share",
    "sink_mass": "sink_mass",
    "absolute_gain": "absolute_gain",
    "largest_ahead": "largest_ahead",
    RANK: "hankel_ranks",
}
"""Of every quantity its function in ``dsf.measures``."""

BY_ROW = {
    "row_sums",
    "convexity_defect",
    "window_mass",
    "mean_distance",
    "effective_tokens",
    "uniform_share",
}
"""Functions with one number for each row, of which the quantity is the mean."""
