"""When softmax rows tell queries apart: over all keys, and row by row in a decoder."""

from collections.abc import Callable
from itertools import product

import numpy as np
import sympy
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import Certificate, Verdict, injective
from dsf.certificates.exact import null_vector
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, shown
from dsf.claims.in_line.weights import TOKENS, WIDTH, drawn, in_line_rows, softmax_rows
from dsf.evaluate import attention_map
from dsf.measures import jacobian_rank, key_rank
from dsf.mixers import SoftmaxAttention

NEAR, RECOVERED = 1e-12, 1e-9


def full_rank(key: Float[Tensor, "tokens key"]) -> bool:
    """Whether [K, 1] has one more independent column than keys have entries."""
    found = key_rank(key)
    return int(found.rank) == found.full


def injective_iff_full_rank(condition: Callable[[Tensor], bool] = full_rank) -> Certificate:
    """Compare the condition with exact verdicts, and the exact directions with real rows."""
    logits = sympy.symbols("s1:4", real=True)
    total = sum(sympy.exp(s) for s in logits)
    ratio = sympy.log(sympy.exp(logits[0]) / total) - sympy.log(sympy.exp(logits[1]) / total)
    apart = sympy.simplify(sympy.expand_log(ratio, force=True) - logits[0] + logits[1])
    agrees, returned, colliding, in_line = True, 0.0, 0.0, 0.0
    for key in _keys():
        query = drawn(1)[0]
        exact = injective(key, first_row=len(key) - 1)
        agrees &= condition(key) == (exact.verdict is Verdict.PROVED)
        if exact.witness is None:
            found = _query_of(softmax_rows(query, key)[0], key)
            returned = max(returned, (found - query[0]).abs().max().item())
        else:
            other = query + 3 * _direction(exact.witness["null"])
            rows = softmax_rows(query, key) - softmax_rows(other, key)
            colliding = max(colliding, rows.abs().max().item())
            rows = in_line_rows(query, key) - in_line_rows(other, key)
            in_line = max(in_line, rows.abs().max().item())
    return argued(
        "softmax rows over the keys K tell all queries apart exactly when rank [K, 1] = d + 1",
        "S(p) = S(q) means K (p - q) = c 1, that is [K, 1] (p - q, -c) = 0",
        {
            "log w_1/w_2 = s_1 - s_2, with symbols": apart == 0,
            "the condition agrees with the exact rank of each key matrix": agrees,
            "with full rank the query comes back from its row": returned <= RECOVERED,
            "without it the exact null direction moves no weight": colliding <= NEAR,
        },
        method="symbols, exact ranks of generic and of degenerate keys, and their rows",
        observed=colliding,
        figures={"query recovered within": returned, "InLine rows along it": in_line},
    )


def _keys() -> list[Tensor]:
    """Generic keys; keys with K 1 = 3 and with K 1 = 0; too few keys."""
    generic = drawn(1)[1]
    whole = torch.tensor(np.random.default_rng(0).integers(-4, 5, (TOKENS, WIDTH))).double()
    level = [whole.index_fill(1, torch.tensor(WIDTH - 1), 0.0) for _ in range(2)]
    for keys, c in zip(level, (3, 0), strict=True):
        keys[:, -1] = c - keys.sum(dim=-1)
    return [generic, *level, generic[:WIDTH]]


def _query_of(row: Tensor, key: Tensor) -> Tensor:
    """The query behind a softmax row: log w = [K, 1] (q, -log total)."""
    columns = torch.cat([key, torch.ones_like(key[:, :1])], dim=-1)
    return torch.linalg.lstsq(columns, row.log().unsqueeze(-1)).solution[:-1, 0]


def _direction(null: list[int]) -> Tensor:
    largest = max(map(abs, null))
    return torch.tensor([entry / largest for entry in null[:-1]], dtype=torch.float64)


def first_rank_follows(needed: int = 3) -> Certificate:
    """Count keys with rank [K, 1] = d + 1 and rank K = d among all small ones; d = 2."""
    tried = [((a, b), (c, d), (e, f)) for a, b, c, d, e, f in product((-1, 0, 1), repeat=6)]
    enough = [keys for keys in tried if _rank([[*row, 1] for row in keys]) >= needed]
    redundant = sum(_rank([list(row) for row in keys]) == 2 for keys in enough)
    return argued(
        "rank [K, 1] = d + 1 implies rank K = d",
        "K x = 0 gives [K, 1] (x, 0) = 0, so a null vector of K is one of [K, 1]",
        {"all small keys with rank [K, 1] = 3 have rank K = 2": redundant == len(enough)},
        method="exact ranks of all keys with entries -1, 0, 1",
        figures={
            "keys tried, three in the plane": len(tried),
            "with rank [K, 1] = 3": len(enough),
            "of these with rank K = 2": redundant,
        },
    )


def _rank(rows: list[list[int]]) -> int:
    """The rank of three short rows: all columns, or all but as many as must go."""
    width = len(rows[0])
    if null_vector(rows) is None:
        return width
    return 1 + any(
        a[i] * b[j] != a[j] * b[i]
        for a in rows
        for b in rows
        for i in range(width)
        for j in range(i)
    )


def early_causal_rows_collide(tokens: int = 3) -> Certificate:
    """Move a query along the normal of the keys that row ``tokens`` (from 1) reads; d = 3."""
    query, key = drawn(TOKENS, width=3)
    direction = torch.linalg.cross(key[1] - key[0], key[2] - key[0])
    moved = query + direction / direction.norm()
    rows = [_causal_row(part, key, tokens) for part in (query, moved)]
    difference = (rows[0] - rows[1]).abs().max().item()
    exact = injective(key, first_row=tokens - 1).verdict
    collides = difference <= NEAR and exact is Verdict.REFUTED
    return shown(
        f"row {tokens} of causal softmax attention is the same for two queries",
        (moved - query)[tokens - 1].norm().item() if collides else 0.0,
        beyond=0.5,
        case={
            "row": tokens,
            "direction": direction.tolist(),
            "row moves by": difference,
            "row 4 moves by": _largest(query, moved, key, 4),
            "injective from row 4 on": injective(key).verdict.value,
            "Jacobian rank of rows 1, 2, 4, 8, 9, 10 with d = 8": _causal_ranks(),
        },
        method="the normal of the keys in reach, an exact null vector, and both rows",
    )


def _causal_row(query: Tensor, key: Tensor, tokens: int) -> Tensor:
    mixer = SoftmaxAttention(query=query, key=key, value=torch.ones_like(key[:, :1]), scale=1.0)
    return attention_map(mixer.system(), rows=tokens - 1)[0]


def _largest(query: Tensor, moved: Tensor, key: Tensor, tokens: int) -> float:
    rows = _causal_row(query, key, tokens) - _causal_row(moved, key, tokens)
    return rows.abs().max().item()


def _causal_ranks() -> list[int]:
    query, key = drawn(1, tokens=20)

    def rank(tokens: int) -> int:
        def row(single: Tensor) -> Tensor:
            return _causal_row(single.expand_as(key), key, tokens)

        return int(jacobian_rank(row, query)[0])

    return [rank(tokens) for tokens in (1, 2, 4, 8, 9, 10)]


CLAIMS = (
    Claim(
        id="INL-1",
        table=Table.PAPER,
        statement=(
            "Softmax attention over keys K is injective in its query if rank [K, 1] = d + 1."
        ),
        standing=Standing.SECOND_HAND,
        expected=Verdict.ARGUED,
        check=injective_iff_full_rank,
        quote=(
            "Our prove *(sic)* that the Softmax attention function is an injective function, "
            "whereas the linear attention function is not."
        ),
        place="README of LeapLabTHU/InLine@e463a6f",
        hypotheses=(
            (
                "Proposition 1 as restated in Project-Navi/navi-SAD@137dc0c, "
                "docs/theory/capacity-gap.md: K ∈ R^{N×d}, rank(K) = d, rank([K, 1]) = d+1, all "
                "p ≠ q in R^d"
            ),
        ),
        note=(
            "That the condition suffices is the paper's, by way of a restatement; that it is "
            "also needed is our addition. InLine attention with the identity collides along the "
            "same directions."
        ),
    ),
    Claim(
        id="INL-2",
        table=Table.OWN,
        statement=(
            "Of the two rank conditions for injective softmax attention the first, rank K = d, "
            "follows from the second, rank [K, 1] = d + 1."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=first_rank_follows,
        quote=(
            "Given keys K ∈ R^{N×d} with rank(K) = d and rank([K, 1_{N×1}]) = d+1, for all p, q "
            "∈ R^d with p ≠ q: S_K(p) ≠ S_K(q)"
        ),
        place=(
            "Proposition 1 as restated in Project-Navi/navi-SAD@137dc0c, "
            "docs/theory/capacity-gap.md"
        ),
        note="Both are hypotheses there, which is right; nothing says that both are needed.",
    ),
    Claim(
        id="INL-8",
        table=Table.OWN,
        statement=(
            "Row t of causal softmax attention is injective in its query only for t ≥ d + 1."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=early_causal_rows_collide,
        note=(
            "The paper is about full attention. Row t reads t keys, so for t ≤ d a query can "
            "move across all their differences; from t = d + 1 on the rows are injective for "
            "generic keys."
        ),
    ),
)
