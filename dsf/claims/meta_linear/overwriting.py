"""A full memory meets one more value: which rows of the state give way.

Row i of the state holds v_i, as in the paper's argument for dynamic memory; a new v arrives. How
much of the old first row is left, and what becomes of the others?
"""

from collections.abc import Callable

import numpy as np
import sympy
import torch
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing
from dsf.claims.deciding import identical, refuted
from dsf.evaluate import final_state
from dsf.mixers import DeltaNet
from dsf.system import System
from dsf.transition import Diagonal

ROWS = 6
Step = Callable[[sympy.Matrix, sympy.Matrix, sympy.Matrix, sympy.Matrix], sympy.Matrix]


def one_token(
    state: sympy.Matrix, decay: sympy.Matrix, key: sympy.Matrix, value: sympy.Matrix
) -> sympy.Matrix:
    """S <- diag(decay) S + key value, written with symbols."""
    return sympy.diag(*decay) * state + key * value


def what_is_left(step: Step = one_token) -> Certificate:
    """Write one value over a full symbolic state by a fixed, no and a dynamic decay."""
    state = sympy.Matrix(ROWS, ROWS, sympy.symbols(f"s:{ROWS * ROWS}"))
    value = sympy.Matrix(1, ROWS, sympy.symbols(f"v:{ROWS}"))
    key, fixed = sympy.ones(ROWS, 1), sympy.Symbol("alpha")
    cases = {
        fixed: sympy.ones(ROWS, 1) * fixed,
        sympy.S.One: sympy.ones(ROWS, 1),
        sympy.S.Zero: sympy.Matrix([0] + [1] * (ROWS - 1)),
    }
    missed = sympy.S.Zero
    for left, decay in cases.items():
        row = step(state, decay, key, value)[0, :]
        missed += sum(abs(part) for part in (row - value - left * state[0, :]).expand())
    claim = "of the first row α, all and nothing is left after a fixed, no and a dynamic decay"
    return identical(claim, missed, method=f"{ROWS} x {ROWS} symbolic state")


def only_decay_overwrites(rate: float = 1.0) -> Certificate:
    """Let a delta rule, which has no decay, write the first key again."""
    key = torch.eye(ROWS, dtype=torch.float64)
    key = torch.cat([key, key[:1]])
    mixer = DeltaNet(query=key, key=key, value=_values(ROWS + 1), rate=_rates(rate))
    after = final_state(mixer.system(), mixer.signal())
    new, old = mixer.value[-1], mixer.value[:-1]
    left = float((after[0] - new).norm() / old[0].norm())
    moved = float((after[1:] - old[1:]).abs().max())
    witness = {
        "transition": "I - rate k kᵀ",
        "rate": rate,
        "key": key[-1].tolist(),
        "old row left": left,
        "other rows moved": moved,
    }
    return refuted(
        "nothing but a decay that follows the input replaces one value and keeps the rest",
        1 - float(np.max([left, moved])),
        beyond=1 - 1e-12,
        witness=witness,
        method="delta rule by the recurrence",
    )


def others_stay(tied: bool = False) -> Certificate:
    """Overwrite the first row by the dynamic decay and look at the others."""
    decay = torch.ones(1, ROWS, dtype=torch.float64)
    decay[0, 0] = 0
    values = _values(ROWS + 1)
    new, old = values[-1], values[:-1]
    moved = {}
    for name, key in (("key 1", torch.ones_like(decay)), ("key 1 - α", 1 - decay)):
        system = System(Diagonal(decay), key.unsqueeze(-1), key.unsqueeze(-2), initial=old)
        after = final_state(system, new.expand(1, 1, ROWS))
        moved[name] = float((after[1:] - old[1:]).norm(dim=-1).max() / new.norm())
    return refuted(
        "with the key k = 1 the rows that are not overwritten stay as they are",
        moved["key 1 - α" if tied else "key 1"],
        beyond=1e-12,
        witness={"decay": decay[0].tolist(), "largest change of another row over |v|": moved},
        method="one token by the recurrence",
    )


def _values(count: int) -> Tensor:
    return torch.randn(count, ROWS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _rates(last: float) -> Tensor:
    rates = torch.ones(ROWS + 1, dtype=torch.float64)
    rates[-1] = last
    return rates


CLAIMS = (
    Claim(
        id="MLA-3",
        statement=(
            "When a full memory must take in one more value, a fixed decay leaves the share α of "
            "the old row, no decay leaves all of it, and a dynamic decay leaves nothing."
        ),
        standing=Standing.STATED,
        expected=Verdict.PROVED,
        check=what_is_left,
        note="At the paper's α = 0.9 the three residuals are 0.9, 1 and 0.",
    ),
    Claim(
        id="MLA-4",
        statement="Only a dynamic decay can overwrite one stored value and keep the others.",
        standing=Standing.STATED,
        expected=Verdict.REFUTED,
        check=only_decay_overwrites,
        note=(
            "A delta rule with k = e₁ and no decay replaces the first row exactly and leaves the "
            "others alone. Inside the paper's form, with diagonal transitions, the claim is right."
        ),
    ),
    Claim(
        id="MLA-5",
        statement="With the key k = 1 the dynamic decay leaves the other rows of the state alone.",
        standing=Standing.DERIVED,
        expected=Verdict.REFUTED,
        check=others_stay,
        note=(
            "Every other row receives v as well and moves by |v|. With the tied key 1 - α it "
            "stays where it was."
        ),
    ),
)
