"""How arrays are compressed: nothing is lost, and never much larger than by plain deflate."""

import zlib

import numpy as np
import pytest

from dsf.report.views import FAST, SAMPLE, SMALL, packed

SIDE = 256


def toeplitz():
    row = np.random.default_rng(0).integers(0, 255, 2 * SIDE, dtype=np.uint8)
    return np.stack([row[SIDE - k : 2 * SIDE - k] for k in range(SIDE)])


def masked_noise():
    drawn = np.random.default_rng(0).normal(129, 12, (SIDE, SIDE)).clip(4, 254).astype(np.uint8)
    return np.tril(drawn)


ARRAYS = {
    "rows that resemble each other": toeplitz(),
    "noise below a mask": masked_noise(),
    "numbers": np.random.default_rng(1).random((SIDE, SIDE)).astype(np.float32),
    "numbers of the other byte order": np.arange(9, dtype=">f4"),
    "few": np.arange(SAMPLE, dtype=np.uint8),
    "one more than the sample": np.zeros(SAMPLE + 1, dtype=np.uint8),
    "none": np.zeros((0, 3), dtype=np.float32),
}


@pytest.mark.parametrize("level", [FAST, SMALL])
@pytest.mark.parametrize("array", ARRAYS.values(), ids=list(ARRAYS))
def test_every_byte_comes_back_and_the_size_is_that_of_deflate_or_less(array, level):
    plain = array.astype(array.dtype.newbyteorder("<")).tobytes()
    found = packed(array, level=level)
    assert zlib.decompress(found) == plain
    assert len(found) <= 1.01 * len(zlib.compress(plain, level)) + 8


def test_rows_that_resemble_each_other_are_found():
    assert len(packed(ARRAYS["rows that resemble each other"])) < SIDE**2 / 20


def test_noise_below_a_mask_is_smaller_than_by_the_highest_level():
    noise = ARRAYS["noise below a mask"]
    assert len(packed(noise)) < 0.99 * len(zlib.compress(noise.tobytes(), 9))
