"""A larger state contains a smaller one."""

import numpy as np
import sympy
import torch
from torch import Tensor

from dsf.certificates import Certificate, Verdict, same_map
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued
from dsf.claims.dynamical_systems.paper_form import one_system
from dsf.evaluate import attention_map
from dsf.mixers import LinearAttention, NormalisedAttention, SelectiveStateSpace
from dsf.systems.algebra import direct_sum
from dsf.systems.system import System
from dsf.systems.transition import Dense

ROUNDING = 1e-12


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


def wider_layer(weight: float = 0.0) -> Certificate:
    """Two more features whose weights are ``weight``: normalised attention, S6, elu + 1."""
    rng = np.random.default_rng(0)
    query, key, value = torch.from_numpy(rng.standard_normal((3, 12, 4)))
    extra = torch.full((12, 2), weight, dtype=torch.float64)
    wide = [torch.cat([part, extra], dim=-1) for part in (query, key)]
    eta = value.new_tensor(rng.uniform(0.5, 2, 12))
    pole = -value.new_tensor(rng.uniform(0.2, 2, (4, 6)))
    step = value.new_tensor(rng.uniform(0.1, 1, (12, 4)))

    def normalised(read: Tensor, write: Tensor) -> Tensor:
        mixer = NormalisedAttention(query=read, key=write, value=value, normaliser=eta)
        return attention_map(mixer.system())

    def selective(read: Tensor, write: Tensor) -> Tensor:
        poles = pole[:, : read.shape[-1]]
        mixer = SelectiveStateSpace(value=value, step=step, pole=poles, write=write, read=read)
        return attention_map(mixer.system())

    def positive(read: Tensor, write: Tensor) -> Tensor:
        return attention_map(LinearAttention(query=read, key=write, value=value).system())

    apart = {
        name: float((build(*wide) - build(query, key)).abs().max())
        for name, build in (
            ("normalised attention", normalised),
            ("S6", selective),
            ("linear attention, elu + 1", positive),
        )
    }
    kept = apart["normalised attention"], apart["S6"]
    return argued(
        "a layer with more states and free weights contains the layer with fewer",
        "a feature whose weights are zero adds nothing to any score",
        {"normalised attention and S6 keep their maps": max(kept) <= ROUNDING},
        method="12 tokens, 4 and 6 features, float64",
        observed=max(kept),
        figures={"largest change of the map": apart},
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
        table=Table.PAPER,
        statement="A system of N' ≥ N states can do whatever one of N states does.",
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=zero_padding,
        quote=(
            "For two dynamical systems (11) with hidden state dimensions N and N̄ with N ≤ N̄, "
            "the dynamical system of state dimension N̄ can always recover the dynamical system "
            "with state dimension N."
        ),
        place="Lemma 2, 4.1; App. D",
        hypotheses=("free matrices of form (11)",),
        note=(
            "Appendix D fills the block-triangular matrix with an arbitrary block, where (11) "
            "asks for a diagonal matrix; zero is meant."
        ),
    ),
    Claim(
        id="DSF-31",
        table=Table.PAPER,
        statement=(
            "A layer with more features contains the layer with fewer, if its weights are free."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=wider_layer,
        quote=(
            "Therefore, it holds that the expressivity of a model is non-decreasing with "
            "increasing state expansion n …, if the rest of the architecture is held constant."
        ),
        place="after Lemma 2, 4.1",
        hypotheses=(
            "the rest of the architecture is held constant",
            "free weights",
        ),
        note=(
            "For normalised attention and S6 the additional weights are set to zero. Features "
            "that stay positive, as elu + 1, cannot be switched off: there n + 1 features "
            "recover n only in the limit."
        ),
    ),
)
