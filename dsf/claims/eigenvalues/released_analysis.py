"""Smaller properties of the released code, written down again from its lines."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import shown

EDGES = (0.0, 0.1, 0.5, 0.9, 1.0, 10.0, 100.0)
Count = Callable[[np.ndarray], np.ndarray]


def closed_bins(sizes: Float[np.ndarray, " many"]) -> Int[np.ndarray, " bins"]:
    """How many fall between two neighbouring edges, both of them included."""
    return np.array([((sizes >= low) & (sizes <= high)).sum() for low, high in pairwise(EDGES)])


def bins_share_edges(count: Count = closed_bins) -> Certificate:
    """Three values, one of them 1.0, which is an edge and can be hit exactly."""
    sizes = np.array([0.3, 0.95, 1.0])
    counts = count(sizes)
    return shown(
        "the released histogram counts an eigenvalue on an edge twice",
        float(abs(counts.sum() - len(sizes))),
        beyond=0.5,
        case={"sizes": sizes.tolist(), "edges": list(EDGES), "counts": counts.tolist()},
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


def one_head_starts_outside(offsets: Offset = rescaled_offsets) -> Certificate:
    """Initial offsets of one head and of four."""
    one, four = offsets(1), offsets(4)
    outside = max(float(np.maximum(LOW - part, part - HIGH).max()) for part in (one, four))
    return shown(
        "with one head the linear initialiser starts the offset outside of 8 to 14",
        outside,
        beyond=1e-9,
        case={"one_head": one.tolist(), "four_heads": four.tolist()},
        method="the initialiser at 1 and at 4 heads",
    )


CLAIMS = (
    Claim(
        id="EIG-4",
        table=Table.CODE,
        statement=(
            "Neighbouring bins of the released histogram share their edge, so a value on it "
            "counts twice."
        ),
        standing=Standing.CODE,
        expected=Verdict.ARGUED,
        check=bins_share_edges,
        place=(
            "IntelligentControlSystems/"
            "Task-Level-Insights-from-Eigenvalues-across-Sequence-Models@67d8254: "
            "analysis/eval_eig.py 350-360"
        ),
        note="Minor: an edge must be hit exactly, as 1.0 can be. The last bin is strict.",
    ),
    Claim(
        id="EIG-5",
        table=Table.CODE,
        statement=(
            "In a branch that no released configuration uses, the offset of normalised attention "
            "with one head starts at 3 and not between 8 and 14."
        ),
        standing=Standing.CODE,
        expected=Verdict.ARGUED,
        check=one_head_starts_outside,
        place=(
            "IntelligentControlSystems/"
            "Task-Level-Insights-from-Eigenvalues-across-Sequence-Models@67d8254: "
            "models/norm_attention.py 17-19; all ten configurations with normalised attention "
            'set offset_init: "exp" (lines 51-52)'
        ),
        note="One head gets (14 - 8)/2, half the range. No published number depends on it.",
    ),
)
