"""How much a zero-sum output can change with its input."""

import numpy as np
import torch

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued
from dsf.claims.zero_sum.weighing import defined_row

TOKENS, WIDTH = 64, 5
ROUNDING = 1e-12


def output_is_lipschitz(factor: float = TOKENS**-0.5) -> Certificate:
    """Finite differences, with the values that turn every change of a weight into output.

    Args:
        factor: what the sum over 64 tokens is multiplied by.
    """
    rng = np.random.default_rng(0)
    project = rng.standard_normal((TOKENS, WIDTH))
    worst = 0.0
    for _ in range(50):
        x, step = rng.standard_normal((2, WIDTH))
        moved = x + 0.1 * step
        before, after = (
            defined_row(torch.from_numpy(project @ point), 0.7, 0.4).numpy() for point in (x, moved)
        )
        change, distance = after - before, float(np.linalg.norm(moved - x))
        lipschitz = TOKENS * float(np.abs(change).max()) / distance
        value = float(np.exp(rng.standard_normal()))
        output = factor * abs(change @ (value * np.sign(change)))
        worst = max(worst, float(output / (value * lipschitz / TOKENS**0.5 * distance)))
    return argued(
        "|o(x) - o(x')| <= B L / sqrt(t) |x - x'| if every weight changes by at most "
        "(L/t) |x - x'|, every value has at most length B, and the sum is divided by sqrt(t)",
        "t weights change by at most (L/t) |x - x'| each: the sum of B times that is B L |x - x'|",
        {"50 pairs of inputs with the worst values stay within it": worst <= 1 + ROUNDING},
        method="triangle inequality; finite differences",
        observed=worst,
    )


CLAIMS = (
    Claim(
        id="ZER-16",
        table=Table.PAPER,
        statement=(
            "With an extra factor 1/√t and weights that are (L/t)-Lipschitz in the input, the "
            "output is (B L/√t)-Lipschitz."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=output_is_lipschitz,
        quote=(
            "The zero-sum update is ℓ2-Lipschitz in its inputs with constant O(1/√t), ensuring "
            "stable gradients and activations independent of sequence length."
        ),
        place="Prop. 3.5",
        hypotheses=(
            "every weight changes by at most (L_w/t)‖x-x'‖",
            "the v_i are held fixed and are no functions of x",
            'the factor 1/√t, which "LayerNorm effectively supersedes"',
        ),
    ),
)
