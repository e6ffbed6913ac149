"""Names that a person may type, known without importing what they name.

A wrong one is told before anything heavy is imported. A test holds each list against what it names.
"""

from collections.abc import Iterable
from difflib import get_close_matches

NUMBER_TYPES = ("float32", "bfloat16", "float16", "float64")
"""Of weights: names of torch."""

QUANTITIES = (
    "mean_row_sum",
    "row_sum_spread",
    "negative_share",
    "smallest_entry",
    "mean_convexity_defect",
    "mean_window_mass_8",
    "mean_distance",
    "half_life",
    "mean_effective_tokens",
    "mean_uniform_share",
    "sink_mass",
    "absolute_gain",
    "largest_ahead",
    "middle_hankel_rank",
)
"""What ``dsf measure`` measures."""

PROPERTIES = (
    "causal",
    "nonnegative",
    "sums_to_one",
    "injective",
    "margin",
    "nonexpansive",
    "forgets",
)
"""What ``dsf check`` decides."""


def check_known(option: str, words: Iterable[str], known: Iterable[str]) -> None:
    """Every word is a known one.

    Raises:
        ValueError: if not; the message has those that are meant, or all.
    """
    names = tuple(known)
    for word in words:
        if word not in names:
            raise ValueError(f"{option} has {word!r}. {meant(word, names)}")


def meant(word: str, names: Iterable[str]) -> str:
    """What a misspelt word may be, or what it can be at all."""
    known = tuple(names)
    near = get_close_matches(word, known, n=2)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    return f"Choose from {', '.join(known)}."
