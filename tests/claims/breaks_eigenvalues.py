"""One thing changed in each check, after which its verdict must be another one."""

from collections.abc import Callable

import numpy as np

from dsf.certificates import Certificate
from dsf.claims.eigenvalues import released_analysis, spectra


def half_open(sizes):
    return np.histogram(sizes, released_analysis.EDGES)[0]


def middle_of_the_range(heads):
    return np.array([11.0]) if heads == 1 else released_analysis.rescaled_offsets(heads)


BREAKS: dict[str, Callable[[], Certificate]] = {
    "EIG-1": lambda: spectra.spectrum_at_zero(symbolic=spectra.AT_ZERO + spectra.L - spectra.i),
    "EIG-2": lambda: spectra.released_formula_is_the_definition(normaliser=spectra.defined),
    "EIG-3": lambda: spectra.scale_leaves_the_histogram_alone(scale=0.25),
    "EIG-4": lambda: released_analysis.bins_partition(count=half_open),
    "EIG-5": lambda: released_analysis.offset_starts_in_range(offsets=middle_of_the_range),
}
