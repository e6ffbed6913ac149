"""A larger state contains a smaller one."""

import numpy as np
import sympy
import torch
from torch import Tensor

from dsf.algebra import direct_sum
from dsf.certificates import Certificate, Verdict, same_map
from dsf.claims.claim import Claim, Standing
from dsf.claims.deciding import argued
from dsf.claims.dynamical_systems.paper_form import one_system
from dsf.evaluate import attention_map
from dsf.system import System
from dsf.transition import Dense


def zero_padding(entry: int = 0) -> Certificate:
    """Add a state that is fed ``entry`` times the input, with any decay and any read."""
    steps, states = 3, 2
    A = [_symbols(f"A{t}", states, states) for t in range(steps)]
    B = [_symbols(f"B{t}", states, 1) for t in range(steps)]
    C = [_symbols(f"C{t}", 1, states) for t in range(steps)]
    added = [_symbols(f"X{t}", 1, 1) for t in range(steps)]
    read = [_symbols(f"Y{t}", 1, 1) for t in range(steps)]
    missed = sympy.S.Zero
    for i in range(steps):
        for j in range(i + 1):
            small, large = B[j], B[j].col_join(sympy.Matrix([[entry]]))
            for t in range(j + 1, i + 1):
                small, large = A[t] * small, sympy.diag(A[t], added[t]) * large
            missed += sympy.expand((C[i] * small - C[i].row_join(read[i]) * large)[0]) ** 2
    stored = same_map(*map(attention_map, _integer_pair(entry)), tolerance=0.0)
    return argued(
        "every system of N states has the map of systems with any N' >= N states",
        "a state that starts at zero and is never fed stays at zero, whatever it keeps or is read",
        {
            "the maps agree with symbols (3 tokens, 2 and 3 states)": missed == 0,
            "stored maps of 4 and 7 states agree exactly": stored.verdict is Verdict.PROVED,
        },
        method="symbols, and whole numbers in exact arithmetic",
        observed=stored.observed,
    )


def _integer_pair(entry: int) -> tuple[System, System]:
    """Small whole numbers: a system of 4 states, and the same beside 3 more."""
    rng = np.random.default_rng(0)

    def whole(*size: int) -> Tensor:
        return torch.from_numpy(rng.integers(-2, 3, size)).double()

    small = System(Dense(whole(6, 4, 4)), whole(6, 4, 2), whole(6, 2, 4), whole(6, 2, 2))
    fed = torch.full((6, 3, 2), float(entry), dtype=torch.float64)
    unread = System(Dense(whole(6, 3, 3)), fed, whole(6, 2, 3))
    joint = one_system(direct_sum(small, unread))
    B = joint.B[..., :2] + joint.B[..., 2:]
    C = joint.C[..., :2, :] + joint.C[..., 2:, :]
    return small, System(joint.A, B, C, joint.feedthrough[..., :2, :2])


def _symbols(name: str, rows: int, columns: int) -> sympy.Matrix:
    return sympy.Matrix(rows, columns, sympy.symbols(f"{name}_:{rows * columns}"))


CLAIMS = (
    Claim(
        id="DSF-16",
        statement="A state of N' ≥ N entries can do whatever one of N entries does.",
        standing=Standing.UNCONFIRMED,
        expected=Verdict.PROVED,
        check=zero_padding,
    ),
)
