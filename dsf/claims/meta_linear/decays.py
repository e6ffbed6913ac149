"""Decays in numbers: keys that a fixed one asks for, and the range of σ(x)^(1/16)."""

from collections.abc import Callable

import sympy
import torch
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued
from dsf.evaluate import attention_map
from dsf.mixers import Retention

SLOWEST = 1 - 2**-9
DECAYS = (0.9, 0.96875, SLOWEST)
ROUNDING = 1e-12
TOKENS = (8, 16, 32, 64, 128, 256, 512)
Faded = Callable[[sympy.Expr, sympy.Expr], sympy.Expr]


def exponential(decay: sympy.Expr, lag: sympy.Expr) -> sympy.Expr:
    """What a fixed decay leaves after ``lag`` tokens."""
    return decay**lag


def key_bound(faded: Faded = exponential) -> Certificate:
    """Solve for the key, and read the faded weights off the map of a retention layer."""
    decay, lag, weight, query = sympy.symbols("alpha lag p C_q", positive=True)
    key = weight / (faded(decay, lag) * query)
    slope = sympy.diff(sympy.expand_log(sympy.log(key), force=True), lag)
    curves = {
        f"{each:.5f}": [float(1 / _faded(each, tokens)[-1, 0]) for tokens in TOKENS]
        for each in DECAYS
    }
    chosen = curves["0.96875"]
    slopes = torch.tensor(chosen, dtype=torch.float64).log().diff() / torch.tensor(TOKENS).diff()
    rate = -torch.tensor(DECAYS[1], dtype=torch.float64).log()
    return argued(
        "to give weight p to a token t - s behind, a fixed decay α needs |k| >= p α^-(t-s) / C_q, "
        "which grows by -ln α with every token",
        "with one channel the weight is q α^(t-s) k and |q| <= C_q",
        {
            "the key solves the equation": _zero(key * query * exponential(decay, lag) - weight),
            "its logarithm grows by -ln α": _zero(slope + sympy.log(decay)),
            "so does the map's": bool(((slopes - rate).abs() < ROUNDING).all()),
        },
        method="symbols, and maps of a retention layer",
        observed=float(rate),
        figures={"tokens": list(TOKENS), "key bound at p = C_q": curves},
    )


def slow_decay(temperature: int = 16) -> Certificate:
    """Exact values of sigmoid(x)^(1/16) at 0 and at -10."""
    at_zero = sympy.Rational(1, 2) ** sympy.Rational(1, temperature)
    at_least = (1 / (1 + sympy.exp(10))) ** sympy.Rational(1, temperature)
    return argued(
        "sigmoid(x)^(1/16) is at least 0.535 for |x| <= 10, and halves a state in 16 tokens at 0",
        "the sigmoid grows with its argument, so its least value is the one at -10",
        {
            "half is left after 16 tokens": sympy.simplify(at_zero**16 - sympy.Rational(1, 2)) == 0,
            "the value at -10 is above 0.535": bool(at_least > sympy.Rational(535, 1000)),
            "the value at -10 is below 0.536": bool(at_least < sympy.Rational(536, 1000)),
        },
        method="symbols, compared in rational arithmetic",
        observed=float(at_least),
        figures={"at -10": float(at_least), "at 0": float(at_zero), "half-life at 0, tokens": 16},
    )


def _faded(decay: float, tokens: int) -> Tensor:
    one = torch.ones(tokens, 1, dtype=torch.float64)
    mixer = Retention(query=one, key=one, value=one, decay=one.new_tensor(decay))
    return attention_map(mixer.system())


def _zero(expression: sympy.Expr) -> bool:
    return bool(sympy.simplify(expression) == 0)


def entries_are_meant(size: int = 6) -> Certificate:
    """The decay that the paper's own proof takes, and its norm."""
    decay = torch.ones(size, dtype=torch.float64)
    decay[0] = 0
    norm = float(decay.norm())
    return argued(
        "α = [0, 1, ..., 1] has entries in [0, 1] and a Euclidean norm above 1",
        "the norm is the square root of the number of ones",
        {
            "entries between 0 and 1": bool(((decay >= 0) & (decay <= 1)).all()),
            "norm above 1": norm > 1,
        },
        method=f"{size} entries",
        observed=norm,
    )


CLAIMS = (
    Claim(
        id="MLA-13",
        table=Table.PAPER,
        statement=(
            "A fixed decay α can give weight p_ts to a far token only by keys of at least p_ts "
            "α^-(t-s) over the largest query, which grow without bound with the length."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=key_bound,
        quote=(
            "Because α ∈ (0,1), the last term 1/α^{t-s} is unbounded, which leads to unbounded k_s."
        ),
        place="A2.2 i), (A8)",
        hypotheses=(
            "d_k = 1 in (A6)",
            "length not bounded",
            (
                '"This conclusion about fixed decay is general and is unrelated to the usage of '
                'Q or K."'
            ),
        ),
        note=(
            "At α = 0.96875 keys must be 7.4 at 64 tokens and 1.1e7 at 512; at α = 1 - 2⁻⁹ only "
            "2.7 at 512. For a given length a decay close enough to 1 costs little."
        ),
    ),
    Claim(
        id="MLA-21",
        table=Table.OWN,
        statement=(
            "The decay sigmoid(x)^(1/16) stays above 0.535 for |x| ≤ 10 and has a half-life of "
            "exactly 16 tokens at x = 0."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=slow_decay,
        quote=(
            "Furthermore, we choose σ = Sigmoid(·)^{1/τ} following [15], where τ = 16 is used to "
            "control the value of dynamic decay …"
        ),
        place="A3.1",
        note=(
            "So it does not erase a state in one token, as the construction of a softmax map "
            'asks; the paper calls α_t = 0 "catastrophic" in practice (A3.2).'
        ),
    ),
    Claim(
        id="MLA-40",
        table=Table.SLIP,
        statement="(A3) and (A5) print a norm of the decay where its entries are meant.",
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=entries_are_meant,
        quote="‖α_t‖ ∈ [0, 1]",
        place="(A3), (A5)",
        hypotheses=("α = [0,1,⋯,1] in A2.1",),
        note="The decay [0, 1, …, 1] of A2.1 has the Euclidean norm √(d_k - 1).",
    ),
)
