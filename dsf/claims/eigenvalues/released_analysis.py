"""Two smaller defects of the released analysis, written down again as they are described."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing
from dsf.claims.deciding import refuted

EDGES = (0.0, 0.1, 0.5, 0.9, 1.0, 10.0, 100.0)
Count = Callable[[np.ndarray], np.ndarray]


def closed_bins(sizes: Float[np.ndarray, " many"]) -> Int[np.ndarray, " bins"]:
    """How many fall between two neighbouring edges, both of them included."""
    return np.array([((sizes >= low) & (sizes <= high)).sum() for low, high in pairwise(EDGES)])


def bins_partition(count: Count = closed_bins) -> Certificate:
    """Three values, one of them on an edge."""
    sizes = np.array([0.3, 0.9, 0.95])
    counts = count(sizes)
    return refuted(
        "the bins of the released histogram count every eigenvalue once",
        float(abs(counts.sum() - len(sizes))),
        beyond=0.5,
        witness={"sizes": sizes.tolist(), "edges": list(EDGES), "counts": counts.tolist()},
        method="a value on an edge",
    )


LOW, HIGH = 8.0, 14.0
Offset = Callable[[int], np.ndarray]


def rescaled_offsets(heads: int) -> Float[np.ndarray, " heads"]:
    """Inverse softplus of 0.02 ... 0.1, rescaled to 8 ... 14; half the range for one head."""
    if heads == 1:
        return np.array([(HIGH - LOW) / 2])
    raw = np.log(np.expm1(np.linspace(0.02, 0.1, heads)))
    return LOW + (raw - raw[0]) / (raw[-1] - raw[0]) * (HIGH - LOW)


def offset_starts_in_range(offsets: Offset = rescaled_offsets) -> Certificate:
    """Initial offsets of one head and of four."""
    one, four = offsets(1), offsets(4)
    outside = max(float(np.maximum(LOW - part, part - HIGH).max()) for part in (one, four))
    return refuted(
        "the offset of every head starts between 8 and 14",
        outside,
        beyond=1e-9,
        witness={"one_head": one.tolist(), "four_heads": four.tolist()},
        method="the initialiser at 1 and at 4 heads",
    )


CLAIMS = (
    Claim(
        id="EIG-4",
        statement="The bins of the released histogram partition the spectrum.",
        standing=Standing.CODE,
        expected=Verdict.REFUTED,
        check=bins_partition,
        note="Neighbouring bins share their edge, so a value on it counts twice.",
    ),
    Claim(
        id="EIG-5",
        statement="The offset of normalised attention with one head starts in [8, 14].",
        standing=Standing.CODE,
        expected=Verdict.REFUTED,
        check=offset_starts_in_range,
        note="One head gets (14 - 8)/2 = 3, half the range where its middle is meant.",
    ),
)
