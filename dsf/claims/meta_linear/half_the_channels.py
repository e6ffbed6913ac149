"""Softmax maps from half as many channels as tokens: a construction for almost all of them.

Every channel makes one of the last ⌈n/2⌉ rows by the decay of a row of probabilities. Before it is
complete its weights are the beginning of that row up to a factor, and an earlier row of t tokens is
a combination of such beginnings as soon as t of them are independent: a query with several entries.
"""

from collections.abc import Sequence
from fractions import Fraction

import sympy
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import out_of_reach
from dsf.claims.meta_linear.random_maps import softmax_map
from dsf.claims.meta_linear.tied_keys import decays_of
from dsf.evaluate import attention_map
from dsf.measures import largest_difference
from dsf.mixers import MetaLinearAttention

TOKENS = (4, 7, 16, 64)
EXACT: Sequence[Sequence[int]] = (
    (1,),
    (2, 5),
    (3, 1, 4),
    (7, 2, 1, 3),
    (1, 6, 2, 2, 5),
    (4, 1, 8, 3, 1, 2),
)
"""Rows of a map before they are divided by their sums."""


def from_later_rows(
    target: Float[Tensor, "time time"],
) -> tuple[Float[Tensor, "time key"], Float[Tensor, "time key"]]:
    """Queries and decays of ⌈n/2⌉ channels with key 1 - α that make ``target``.

    Exact where the later rows are in general position; elsewhere the nearest early rows.
    """
    steps = len(target)
    channels = -(-steps // 2)
    early = steps - channels
    query, decay = target.new_zeros(steps, channels), target.new_ones(steps, channels)
    for channel, row in enumerate(range(early, steps)):
        decay[: row + 1, channel] = target.new_tensor(decays_of(target[row, : row + 1].tolist()))
        query[row, channel] = 1
    for t in range(early):
        begun = target[early:, : t + 1]
        held = begun / begun.sum(dim=-1, keepdim=True)
        solved = torch.linalg.lstsq(held.mT, target[t, : t + 1, None], driver="gelsd")
        query[t] = solved.solution.squeeze(-1)
    return query, decay


def exact_in_fractions(numbers: Sequence[Sequence[int]] = EXACT) -> bool:
    """Whether the same construction makes a map of fractions without any error."""
    rows = [[Fraction(part, sum(row)) for part in row] for row in numbers]
    channels = -(-len(rows) // 2)
    early = len(rows) - channels
    decays = [decays_of(row) for row in rows[early:]]
    for t, wanted in enumerate(rows[:early]):
        held = sympy.Matrix([_held(each[: t + 1]) for each in decays]).T
        square = held[:, : t + 1]
        if square.det() == 0:
            return False
        query = square.LUsolve(sympy.Matrix(_rational(wanted)))
        if square * query != sympy.Matrix(_rational(wanted)):
            return False
    return all(
        _held(each) == _rational(row) for each, row in zip(decays, rows[early:], strict=True)
    )


def half_as_many() -> Certificate:
    """Almost every map: built and compared. Every map: not decided."""
    errors, largest = [], []
    for steps in TOKENS:
        target = softmax_map(steps)
        query, decay = from_later_rows(target)
        mixer = MetaLinearAttention(query=query, decay=decay, value=torch.ones_like(target[:, :1]))
        errors.append(float(largest_difference(attention_map(mixer.system()), target)))
        largest.append(float(query.abs().max()))
    return out_of_reach(
        "⌈n/2⌉ channels with key 1 - α reproduce every causal softmax map of n tokens",
        "almost every map is reproduced (see the evidence); open are maps whose later rows begin "
        "with dependent vectors, and whether queries stay bounded near them: no size of "
        "experiment settles that",
        trend={
            "tokens": list(TOKENS),
            "channels": [-(-steps // 2) for steps in TOKENS],
            "largest error": errors,
            "largest query": largest,
            f"exact in fractions at {len(EXACT)} tokens": exact_in_fractions(),
        },
    )


def _held(decays: Sequence[Fraction]) -> list[sympy.Rational]:
    """The weight of every token in the state of a channel: (1 - α_s) α_{s+1} ... α_t."""
    held: list[Fraction] = []
    for decay in decays:
        held = [decay * part for part in held] + [1 - decay]
    return _rational(held)


def _rational(row: Sequence[Fraction]) -> list[sympy.Rational]:
    return [sympy.Rational(part.numerator, part.denominator) for part in row]


CLAIMS = (
    Claim(
        id="MLA-12",
        table=Table.OWN,
        statement=(
            "Half as many channels as tokens, with keys tied to the decay, suffice for every "
            "causal softmax map."
        ),
        standing=Standing.OWN,
        expected=Verdict.UNKNOWN,
        check=half_as_many,
        note=(
            "For almost every map they do, so that the bound of MLA-11 is sharp there: each "
            "channel draws one of the later rows, and an earlier row is a combination of what "
            "they contain by then. Open for maps whose later rows begin with dependent vectors."
        ),
    ),
)
