"""What averages do to values that are independent of the weights."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import product

import torch

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued

ZERO_SUM = (Fraction(1, 2), Fraction(-3, 4), Fraction(1, 4))
SOFTMAX = (Fraction(1, 2), Fraction(1, 3), Fraction(1, 6))
SIGNS = (-1, 1)
LENGTHS = (16, 64, 256, 1024)


def centred_values_average_out(values: Sequence[int] = SIGNS) -> Certificate:
    """The mean output over all draws of three values, in fractions."""
    means = {
        name: sum(
            (sum(w * v for w, v in zip(weights, drawn, strict=True)))
            for drawn in product(values, repeat=len(weights))
        )
        / Fraction(len(values) ** len(weights))
        for name, weights in (("zero-sum", ZERO_SUM), ("softmax", SOFTMAX))
    }
    return argued(
        "for centred values that are independent of the weights E[Σ w_i v_i] = 0, of zero-sum "
        "weights and of softmax weights alike",
        "expectation is linear, so E[Σ w_i v_i] = Σ w_i E[v_i]",
        {
            f"{name} weights: the mean over all draws is 0": mean == 0
            for name, mean in means.items()
        },
        method="all draws of three values, in fractions",
        figures={name: str(mean) for name, mean in means.items()},
    )


def uniform_rows_shrink(weight: Fraction | None = None) -> Certificate:
    """The mean square of a uniform average over all draws of up to eight signs.

    Args:
        weight: of every token; 1/t when absent.
    """
    squares = {
        t: sum(
            (sum(drawn) * (Fraction(1, t) if weight is None else weight)) ** 2
            for drawn in product(SIGNS, repeat=t)
        )
        / Fraction(len(SIGNS) ** t)
        for t in range(1, 9)
    }
    rng = torch.Generator().manual_seed(0)
    scaled = [
        float(t**0.5 * torch.randn(512, t, 4, generator=rng).mean(dim=1).norm(dim=-1).mean())
        for t in LENGTHS
    ]
    return argued(
        "with uniform weights and independent values of mean zero E|o|² = E|v|²/t",
        "variances of independent values add up",
        {f"E o² = 1/{t} at {t} tokens": square == Fraction(1, t) for t, square in squares.items()},
        method="all draws of signs, in fractions; normal values of width 4",
        figures={"tokens": list(LENGTHS), "√t E|o|": scaled},
    )


CLAIMS = (
    Claim(
        id="ZER-33",
        table=Table.PAPER,
        statement=(
            "For centred values that are independent of the weights the expected output of "
            "zero-sum attention is zero."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=centred_values_average_out,
        quote=(
            "When value vectors {v_i} are centered and i.i.d., zero-sum attention produces o_t = "
            "Σ w_{t,i} v_i with Σ w_{t,i} = 0 and E[o_t] = 0."
        ),
        place="Residual Stream Alignment",
        hypotheses=("values centred, i.i.d. and independent of the weights",),
        note="The same holds for softmax weights, so it does not tell the two apart.",
    ),
    Claim(
        id="ZER-34",
        table=Table.PAPER,
        statement=(
            "With uniform weights and independent values of mean zero the norm of the output "
            "falls as 1/√t."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=uniform_rows_shrink,
        quote=(
            "As weights become more uniform, output norm expectation decreases at approximately "
            "1/√t with sequence length t (assuming zero-mean vectors)."
        ),
        place="Convexity of Sum-to-One Weights",
        hypotheses=(
            "zero-mean vectors, independent",
            "uniform weights",
        ),
    ),
)
