"""One thing changed in each check, after which its verdict must be another one."""

from collections.abc import Callable

import numpy as np

from dsf.certificates import Certificate
from dsf.claims.eigenvalues import analysed_input, released_analysis, spectra


def half_open(sizes):
    return np.histogram(sizes, released_analysis.EDGES)[0]


def middle_of_the_range(heads):
    return np.array([11.0]) if heads == 1 else released_analysis.rescaled_offsets(heads)


BREAKS: dict[str, Callable[[], Certificate]] = {
    "EIG-1": lambda: spectra.spectrum_at_zero(symbolic=spectra.AT_ZERO + spectra.L - spectra.i),
    "EIG-2": lambda: spectra.released_formula_is_another(normaliser=spectra.defined),
    "EIG-3": lambda: spectra.scale_changes_the_histogram(scale=0.25),
    "EIG-4": lambda: released_analysis.bins_share_edges(count=half_open),
    "EIG-5": lambda: released_analysis.one_head_starts_outside(offsets=middle_of_the_range),
    "EIG-7": lambda: analysed_input.taken_at_the_output(
        place=lambda _block, x: analysed_input.layer_norm(x, (analysed_input.WIDTH,))
    ),
    "EIG-8": lambda: analysed_input.without_the_convolution(convolved=True),
    "EIG-9": lambda: analysed_input.before_norm_and_rotation(hooked=analysed_input.as_attended),
}
