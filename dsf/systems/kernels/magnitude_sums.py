"""Magnitudes of several maps added up, each entry read once."""

from typing import no_type_check

import numpy as np

from dsf.systems.kernels.compiling import kernel


@kernel()
@no_type_check
def add_magnitudes(weights: np.ndarray, maps: np.ndarray, sums: np.ndarray) -> None:
    """Add the absolute weights of some maps of ``map row column`` to ``row column``."""
    for i in range(weights.shape[1]):
        into = sums[i]
        for m in maps:
            row = weights[m, i]
            for j in range(len(into)):
                into[j] += abs(row[j])
