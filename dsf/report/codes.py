"""Maps as bytes: one signed 8-bit code a cell, deflated, in base64.

Codes 0 to 3 say what has no number; the others are symmetric about zero and grow with the square
root of the weight, so that faint weights keep some digits.
"""

import base64
import zlib

import numpy as np
from jaxtyping import Bool, Float, UInt8

MASKED, NAN, PLUS_INFINITY, MINUS_INFINITY = 0, 1, 2, 3
ZERO = 129
LEVELS = 125


def coded(
    weights: Float[np.ndarray, "*size"], masked: Bool[np.ndarray, "*size"], scale: float
) -> UInt8[np.ndarray, "*size"]:
    """The code of every weight; ``scale`` is the magnitude that gets the last level."""
    finite = np.where(np.isfinite(weights), weights, 0)
    share = np.clip(np.abs(finite) / scale, 0, 1) if scale > 0 else np.zeros_like(finite)
    levels = np.rint(LEVELS * np.sqrt(share)) * np.sign(finite)
    codes = (ZERO + levels).astype(np.uint8)
    codes[masked & (weights == 0)] = MASKED
    codes[np.isnan(weights)] = NAN
    codes[weights == np.inf] = PLUS_INFINITY
    codes[weights == -np.inf] = MINUS_INFINITY
    return codes


def packed(numbers: np.ndarray) -> str:
    """The bytes of an array, little-endian, as a browser's DecompressionStream takes them."""
    little = np.ascontiguousarray(numbers, dtype=numbers.dtype.newbyteorder("<"))
    return base64.b64encode(zlib.compress(little.tobytes(), 9)).decode("ascii")
