"""A full state is updated with one more value: which of its rows are replaced.

Row i of the state holds v_i, as in the paper's argument for dynamic memory; a new v arrives. How
much of the old first row is left, and what becomes of the others?
"""

from collections.abc import Callable

import numpy as np
import sympy
import torch
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, identical, shown
from dsf.evaluate import final_state
from dsf.mixers import DeltaNet
from dsf.systems.system import System
from dsf.systems.transition import Diagonal

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


def only_dynamic_decay(step: Step = one_token) -> Certificate:
    """Solve for the decay that leaves nothing of the first row; the state is full and arbitrary."""
    state = sympy.Matrix(ROWS, ROWS, sympy.symbols(f"s:{ROWS * ROWS}"))
    value = sympy.Matrix(1, ROWS, sympy.symbols(f"v:{ROWS}"))
    alpha = sympy.Symbol("alpha")
    decay = sympy.Matrix([alpha] + [1] * (ROWS - 1))
    row = (step(state, decay, sympy.ones(ROWS, 1), value)[0, :] - value).expand()
    roots = [sympy.solve(part, alpha) for part in row]
    return argued(
        "within S_t = diag(α_t) S_{t-1} + k_tᵀ v_t a full memory takes v_{t+1} in place of a row "
        "only by α = 0 there, so by a decay that depends on the token",
        "a fixed decay of 0 would have kept nothing before, and so the memory could not be full",
        {"the equation for every entry has the one solution α = 0": roots == [[0]] * ROWS},
        method=f"{ROWS} x {ROWS} symbolic state, key 1",
    )


def delta_rule_overwrites(rate: float = 1.0) -> Certificate:
    """Let a delta rule, which has no decay, write the first key again."""
    key = torch.eye(ROWS, dtype=torch.float64)
    key = torch.cat([key, key[:1]])
    mixer = DeltaNet(query=key, key=key, value=_values(ROWS + 1), rate=_rates(rate))
    after = final_state(mixer.system(), mixer.signal())
    new, old = mixer.value[-1], mixer.value[:-1]
    left = float((after[0] - new).norm() / old[0].norm())
    moved = float((after[1:] - old[1:]).abs().max())
    case = {
        "transition": "I - rate k kᵀ",
        "rate": rate,
        "key": key[-1].tolist(),
        "old row left": left,
        "other rows moved": moved,
    }
    return shown(
        "a delta rule without any decay replaces one value and keeps the rest",
        1 - float(np.max([left, moved])),
        beyond=1 - 1e-12,
        case=case,
        method="delta rule by the recurrence",
    )


def others_move(tied: bool = False) -> Certificate:
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
    return shown(
        "with the key k = 1 the rows that are not overwritten receive v as well",
        moved["key 1 - α" if tied else "key 1"],
        beyond=1e-12,
        case={"decay": decay[0].tolist(), "largest change of another row over |v|": moved},
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
        table=Table.PAPER,
        statement=(
            "When a full memory must take in one more value, a fixed decay leaves the share α of "
            "the old row, no decay leaves all of it, and a dynamic decay leaves nothing."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=what_is_left,
        quote="The model can update and obtain (S_{d_k+1})_{1,:} = αv_1 + v_{d_k+1}.",
        place="A2.1, proof of Prop. A2.1, i); ii) and iii) for 1 and 0",
        hypotheses=(
            "form (13)",
            "key set to 1",
            "state full",
            "α ∈ (0,1)",
        ),
    ),
    Claim(
        id="MLA-4",
        table=Table.PAPER,
        statement=(
            "Within the general form only a dynamic decay can put a new value in the place of a "
            "stored one."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=only_dynamic_decay,
        quote=(
            "… only models with dynamic decay can substitute historical unimportant v_{t1} by "
            "v_{t+1} successfully, i.e., obtain (S_{t+1})_{1,:} = v_{t+1}."
        ),
        place="Prop. A2.1",
        hypotheses=(
            (
                '"Let S_t … be hidden state of general linear attention (see Sec. 3)", that is '
                "diag(α) in (13)"
            ),
            "key set to 1, state full",
        ),
        note=(
            "Scope: a delta rule, which is outside the form, does it without any decay (MLA-42)."
        ),
    ),
    Claim(
        id="MLA-5",
        table=Table.OWN,
        statement=(
            "The proof of Prop. A2.1 sets k = 1, and then every other row receives the new value "
            "too; k = 1 - α repairs it."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=others_move,
        quote="Setting α_{d_k+1} = [0,1,⋯,1] can obtain (S_{d_k+1})_{1,:} = v_{d_k+1}.",
        place="A2.1, proof, iii)",
        hypotheses=("key set to 1",),
        note=(
            "The proof looks at row 1 only. Every other row moves by |v|; with the tied key 1 - "
            "α it stays where it was."
        ),
    ),
    Claim(
        id="MLA-42",
        table=Table.OWN,
        statement=(
            "Outside the general form a delta rule, which has no decay, replaces one stored "
            "value and keeps the others."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=delta_rule_overwrites,
        note=(
            "A remark on the scope of Prop. A2.1: with k = e₁ the first row is replaced exactly "
            "and the others stay."
        ),
    ),
)
