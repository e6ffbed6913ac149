"""The colours of pictures, as a palette of 8-bit numbers: greys of texts, then shades of weights.

A picture of numbers takes a quarter of one of red, green, blue and opacity, and is packed as fast.
"""

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.colors import LinearSegmentedColormap, to_rgb

MASKED_COLOUR = "#e7e3da"
NOT_FINITE = "#96be00"
# The colours of the page: cool for negative weights, the background at zero, warm for positive.
COOL = ["#103e78", "#3879b5", "#7daed5", "#c4dbec"]
WARM = ["#fbd6b8", "#f49d6b", "#d65430", "#831816"]
SHADES = [*COOL, "#f6f5f1", *WARM]

WHITE, MASKED, ODD = 50, 51, 52
"""Numbers of colours. Those up to ``WHITE`` are greys, from black on."""

LEVELS, ZERO = 100, 153
"""Shades of either sign, and the number of the weight zero, in the middle of all."""

Colours = UInt8[np.ndarray, "rows columns"]


def palette() -> UInt8[np.ndarray, "colours 3"]:
    """Red, green and blue of every number of a colour."""
    greys = np.repeat(np.linspace(0, 1, WHITE + 1)[:, None], 3, axis=1)
    found = LinearSegmentedColormap.from_list("signed", SHADES, N=2 * LEVELS + 1)
    shades = found(np.arange(2 * LEVELS + 1))[:, :3]
    single = [to_rgb(MASKED_COLOUR), to_rgb(NOT_FINITE)]
    return np.rint(255 * np.concatenate([greys, single, shades])).astype(np.uint8)


def shaded(
    weights: Float[np.ndarray, "rows columns"],
    masked: Bool[np.ndarray, "rows columns"],
    reach: float,
) -> Colours:
    """The colour of every weight by its square root, full from the magnitude ``reach`` on."""
    odd = ~np.isfinite(weights)
    share = np.minimum(np.abs(weights) / reach, 1)
    if odd.any():
        share[odd] = 0
    colours = np.rint(ZERO + LEVELS * np.copysign(np.sqrt(share), weights)).astype(np.uint8)
    colours[masked] = MASKED
    colours[odd] = ODD
    return colours


def ramp(*, signed: bool) -> Colours:
    """One row with every shade, from the least to the most: the colours of a colour bar."""
    return np.arange(ZERO - LEVELS * signed, ZERO + LEVELS + 1, dtype=np.uint8)[None]
