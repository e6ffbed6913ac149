"""Softmax maps by the key 1 - α: the decay that makes any row of probabilities."""

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import sympy
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, identical, measured, shown
from dsf.claims.meta_linear.random_maps import normal, softmax_map
from dsf.evaluate import attention_map
from dsf.measures import largest_difference
from dsf.mixers import LinearAttention, MetaLinearAttention

LONGEST, STEPS = 6, 64
Decay = Callable[[Any, Any], Any]
"""α_s from the sums of the row up to the token before and up to this one, in any number type."""


def share_kept(before: Any, now: Any) -> Any:
    """α_s = S_{s-1} / S_s; zero as long as nothing was summed up."""
    return before / now if now != 0 else now


def decays_of(row: list[Any], decay: Decay = share_kept) -> list[Any]:
    """The decays that let one channel make ``row``."""
    sums = [sum(row[:s], 0 * row[0]) for s in range(len(row) + 1)]
    return [decay(before, now) for before, now in pairwise(sums)]


def weights_of(decays: list[Any]) -> list[Any]:
    """The last row of a channel with query 1 and key 1 - α."""
    weights, kept = [], 1
    for decay in reversed(decays):
        weights.append((1 - decay) * kept)
        kept = kept * decay
    return weights[::-1]


def any_row(decay: Decay = share_kept) -> Certificate:
    """Rows of symbols, a row of 64 fractions, one-hot rows; the decays stay between 0 and 1."""
    drawn = torch.softmax(3 * normal(np.random.default_rng(0), STEPS), dim=0).tolist()
    whole = sum(map(Fraction, drawn))
    exact = [Fraction(part) / whole for part in drawn]
    one_hot = [[Fraction(int(s == t)) for s in range(LONGEST)] for t in range(LONGEST)]
    decays = decays_of(exact, decay)
    found = weights_of(decays_of(drawn, decay))
    hypotheses = {
        f"symbols, up to {LONGEST} tokens": all(_row_of(t, decay) for t in range(1, LONGEST + 1)),
        f"{STEPS} tokens in fractions": weights_of(decays) == exact,
        "one-hot rows": all(weights_of(decays_of(row, decay)) == row for row in one_hot),
        "decays between 0 and 1": all(0 <= part <= 1 for part in decays),
    }
    return argued(
        "one channel with query 1, key 1 - α and α_s = S_{s-1}/S_s makes any row of probabilities",
        "(1 - α_s) α_{s+1} ... α_t telescopes to p_s / S_t, and sums of parts that are not "
        "negative never shrink",
        hypotheses,
        method="symbols and exact fractions",
        observed=max(abs(a - b) for a, b in zip(found, drawn, strict=True)),
    )


def any_map(query: Float[Tensor, "time key"] | None = None, *, steps: int = STEPS) -> Certificate:
    """One channel for every row: the query selects it, and the key or the decay makes the row."""
    target = softmax_map(steps)
    pick = torch.eye(steps, dtype=target.dtype) if query is None else query
    decay = torch.ones_like(target)
    for row in range(steps):
        decay[: row + 1, row] = target.new_tensor(decays_of(target[row, : row + 1].tolist()))
    value = torch.ones(steps, 1, dtype=target.dtype)
    tied = MetaLinearAttention(query=pick, decay=decay, value=value)
    keyed = LinearAttention(
        query=pick, key=target.mT, value=value, feature_map=torch.nn.Identity(), normalised=False
    )
    errors = [
        float(largest_difference(attention_map(mixer.system()), target)) for mixer in (tied, keyed)
    ]
    return measured(
        f"(Q, Λ_t) and (Q, K) with as many channels as tokens reproduce a causal softmax map of "
        f"{steps} tokens",
        float(np.max(errors)),
        within=1e-12,
        method="maps of the two mixers against the target",
    )


def depends_on_later_rows(third: tuple[float, float, float] = (0.6, 0.1, 0.3)) -> Certificate:
    """Two maps that agree up to the second token, and the decay that channel 3 has there."""
    rows = ((0.2, 0.3, 0.5), third)
    found = [decays_of(list(row))[1] for row in rows]
    return shown(
        "with this construction no θ serves all maps: a decay depends on rows to come",
        abs(found[0] - found[1]),
        beyond=1e-9,
        case={"third rows": [list(row) for row in rows], "α_2 of channel 3": found},
        method="two maps with the same first two rows",
    )


def one_is_redundant(factor: sympy.Expr | int = 1) -> Certificate:
    """Two decays of one channel for one weight; the key makes up for the second."""
    q, k, a, b, c = sympy.symbols("q k alpha beta c", positive=True)
    weight = q * a * b * k
    other = q * (c * a) * b * (k / c) * factor
    return identical(
        "k and the decay after it give one weight along a whole curve, (k/c, c α) for every c",
        sympy.simplify(weight - other),
        method="symbols, one channel, one row",
    )


def _row_of(tokens: int, decay: Decay) -> bool:
    """Whether a row of symbols that sums to one is reproduced."""
    free = list(sympy.symbols(f"p1:{tokens}", positive=True))
    row = [*free, 1 - sum(free, sympy.S.Zero)]
    return all(
        sympy.cancel(a - b) == 0
        for a, b in zip(weights_of(decays_of(row, decay)), row, strict=True)
    )


CLAIMS = (
    Claim(
        id="MLA-6",
        table=Table.PAPER,
        statement=(
            "With query 1 and key 1 - α the decay α_s = S_{s-1}/S_s, always between 0 and 1, "
            "reproduces any row of probabilities."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=any_row,
        quote=(
            "At any time t-k, we can derive a closed-form and bounded solution α_{t-k} = "
            "S_{t-k-1}/S_{t-k} ∈ [0, 1]."
        ),
        place="A2.2, after (A21)",
        hypotheses=(
            "d_k = 1, one time t, q = 1, key 1 - α",
            "a row of softmax, so positive",
        ),
    ),
    Claim(
        id="MLA-7",
        table=Table.PAPER,
        statement=(
            "One-hot queries and keys tied to the decay reproduce any causal softmax map with as "
            "many channels as tokens, and so do one-hot queries and free keys."
        ),
        standing=Standing.STATED,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=any_map,
        quote=(
            "In an extreme case, let one dimension of q relate to one time, which means q_t = "
            "[0, ⋯, q_t, ⋯, 0]."
        ),
        place="A2.2, General case, (A22); (Q, K) by case ii)",
        hypotheses=("t = 1 … d_k tokens, d_k channels",),
        note="Row by row this is the exact construction of MLA-6.",
    ),
    Claim(
        id="MLA-10",
        table=Table.OWN,
        statement=(
            "With this construction no θ serves all softmax maps: a decay depends on rows to come."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=depends_on_later_rows,
        quote=(
            "For an arbitrarily given softmax attention map P with scores p_ts, there must "
            "exists bounded θ such that f(x_t, x_s ∣ θ) = p_ts, ∀t, s = 1, ⋯, n."
        ),
        place="Def. 4.1 iii)",
        hypotheses=(
            "θ may depend on P",
            (
                '"our theory studies functions of LinAttMap, but not whether these functions '
                'will be successfully learned" (A2.4)'
            ),
        ),
        note=(
            "A remark on scope, and no contradiction: the paper takes θ after P. Two maps with "
            "the same first two rows need α_2 = 0.400 and 0.857 in channel 3."
        ),
    ),
    Claim(
        id="MLA-32",
        table=Table.PAPER,
        statement=(
            "With a key and a decay of its own, one weight of one channel is given by a whole "
            "curve of parameters."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=one_is_redundant,
        quote=(
            "It is equivalent to use two free parameters k_{t-k}, α_{t-k+1} to concurrently "
            "approximate just one variable …, which is redundant."
        ),
        place="A2.2 iii)",
        hypotheses=("one channel, one row",),
    ),
)
