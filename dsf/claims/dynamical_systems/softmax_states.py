"""How many states softmax attention needs: at one length, and at every length."""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.certificates.exact import independent_rows, integer_row
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, held, shown
from dsf.claims.dynamical_systems.drawn import normal
from dsf.claims.dynamical_systems.paper_form import one_system
from dsf.evaluate import attention_map
from dsf.evaluate.realisation import realise
from dsf.measures import hankel_ranks, largest_difference
from dsf.mixers import LinearAttention, SoftmaxAttention

LENGTHS = (8, 16, 20, 32, 64)
CLOSELY = 20
"""The length at which every block is looked at."""
ROUNDING = 1e-12
RANK = 1e-10


def powers_of_two(
    query: Float[Tensor, "time key"], key: Float[Tensor, "time key"]
) -> Float[Tensor, "time time"]:
    """2^(q.k), exact for whole numbers: softmax numerators at the logits q.k log 2."""
    return torch.exp2(query @ key.T)


def no_state_serves_every_length(
    numerators: Callable[[Tensor, Tensor], Tensor] = powers_of_two,
) -> Certificate:
    """Exact ranks of Hankel blocks whose numerators are whole numbers.

    Dividing a row by its sum changes no rank, so the blocks of softmax attention have these ranks.
    A rank modulo a prime is at most the rank. Queries 0, 1, 2 ... and keys 0, 1, 2 ... make the
    numerators powers of distinct nodes at any length.
    """
    same, full = [], []
    for steps in LENGTHS:
        query, key = torch.from_numpy(
            np.random.default_rng(steps).integers(-3, 4, (2, steps, 4))
        ).double()
        weights = numerators(query, key).tril()
        mixer = SoftmaxAttention(query=query, key=key, value=key, scale=math.log(2))
        rows = weights / weights.sum(dim=-1, keepdim=True)
        same.append(float(largest_difference(attention_map(mixer.system()), rows)) < ROUNDING)
        positions = range(1, steps) if steps == CLOSELY else (steps // 2,)
        full += [_rank(weights, i) == min(i, steps - i) for i in positions]
    return argued(
        "at every length L some softmax map has a Hankel block of rank floor(L/2), and maps drawn "
        f"with key width 4 have them for L in {', '.join(map(str, LENGTHS))}",
        "a system with N states has Hankel blocks of rank at most N; powers of distinct nodes make "
        "a Vandermonde matrix, all of whose leading columns are independent; minors are analytic, "
        "so full rank for some queries and keys is full rank for all but a null set",
        {
            "the numerators are those of the softmax mixer": all(same),
            "every drawn block has full rank": all(full),
            "queries and keys 0, 1, 2 ... give powers of distinct nodes": _is_vandermonde(
                numerators
            ),
        },
        method="whole-number numerators 2^(q.k), rank modulo 2^61 - 1",
        observed=float(max(LENGTHS) // 2),
    )


def _is_vandermonde(numerators: Callable[[Tensor, Tensor], Tensor]) -> bool:
    count = torch.arange(CLOSELY, dtype=torch.float64)
    weights = numerators(count.unsqueeze(-1), count.unsqueeze(-1))
    nodes = weights[:, 1]
    powers = nodes.unsqueeze(-1) ** count
    return bool((nodes.diff() > 0).all()) and bool((weights == powers).all())


def _rank(weights: Tensor, start: int) -> int:
    """Rank modulo a prime of the block from row ``start`` on, columns before it.

    Rows are rescaled to whole numbers, which changes no rank.
    """
    block = [integer_row(row) for row in weights[start:, :start]]
    return len(independent_rows(block, start))


def powers(rows: int, columns: int) -> int:
    """2^(q k) for the whole numbers q and k: the kernel of softmax attention at key width 1."""
    return int(2 ** (rows * columns))


FEATURES = (1, 2, 5, 10, 20)


def features_of_one_token(kernel: Callable[[int, int], int] = powers) -> Certificate:
    """Exact ranks of the kernel of the queries and keys 0, 1, 2 ... at more points than features.

    The second row of a map of two tokens already shows the kernel: the ratio of its weights is the
    kernel of query and first key, times what depends on the second token alone.
    """
    ranks = [
        len(independent_rows([[kernel(q, k) for k in range(n + 1)] for q in range(n + 1)], n + 1))
        for n in FEATURES
    ]
    return argued(
        "no n features of the query alone and of the key alone give softmax weights, at any length "
        "of two tokens or more",
        "a_21/a_22 = φ(q_2).ψ(k_1)/(φ(q_2).ψ(k_2)), whatever the normaliser; so with n features "
        "the kernel e^(q.k) has rank n at most at any n + 1 queries and keys, but for a factor of "
        "each query",
        {
            f"{n} features: {n + 1} queries and keys give rank {n + 1}": rank == n + 1
            for n, rank in zip(FEATURES, ranks, strict=True)
        },
        method="exact ranks of 2^(q k), whole numbers, rank modulo 2^61 - 1",
        observed=float(max(ranks)),
    )


def prefix_needs_half(
    mixer: Callable[..., SoftmaxAttention] = SoftmaxAttention,
) -> Certificate:
    """The cache is an exact system of L states; the smallest system has half as many."""
    steps = 20
    query, key, value = normal(np.random.default_rng(0), 3, steps, 4)
    attention = mixer(query=query, key=key, value=value, scale=2.0)
    scores = (2.0 * query @ key.T).exp().tril()
    weights = scores / scores.sum(dim=-1, keepdim=True)
    cache = one_system(attention.system())
    small = realise(weights, tolerance=RANK)
    errors = [float(largest_difference(attention_map(each), weights)) for each in (cache, small)]
    return held(
        f"softmax attention of {steps} tokens is exactly a system of {steps // 2} states whose "
        "coefficients see the prefix",
        {
            "the cache is exact": errors[0] < ROUNDING,
            "so is the smallest system": errors[1] < ROUNDING,
            f"which has {steps // 2} states": small.state_size == steps // 2,
        },
        observed=float(small.state_size),
        figures={
            "states of the cache": cache.state_size,
            "error of its map": errors[0],
            "states of the smallest system": small.state_size,
            "error of the smallest system": errors[1],
        },
        method="cache and minimal realisation against the explicit map, float64",
    )


def minimal_order(attention: Callable[[Tensor, Tensor], Tensor] | None = None) -> Certificate:
    """Ranks of the blocks without and with the diagonal, at even and odd lengths."""
    weights_of = attention or _softmax_weights
    free, forced = {}, {}
    for steps in (8, 9, 12, 13):
        query, key = normal(np.random.default_rng(0), 2, steps, 4)
        weights = weights_of(query, key)
        free[steps] = int(hankel_ranks(weights, tolerance=RANK).max())
        forced[steps] = max(
            int(torch.linalg.matrix_rank(weights[i:, : i + 1], rtol=RANK)) for i in range(steps)
        )
    return held(
        "the largest Hankel rank of a softmax map is floor(L/2) where D is free and ceil(L/2) "
        "where D = 0 and the read follows the update",
        {
            "floor(L/2) with D free": all(free[steps] == steps // 2 for steps in free),
            "ceil(L/2) with D = 0": all(forced[steps] == -(-steps // 2) for steps in forced),
        },
        method="lengths 8, 9, 12, 13, key width 4, logit scale 2, relative tolerance 1e-10",
        figures={
            "lengths": list(free),
            "ranks with D free": list(free.values()),
            "ranks with D = 0": list(forced.values()),
        },
    )


def _softmax_weights(query: Tensor, key: Tensor) -> Tensor:
    mixer = SoftmaxAttention(query=query, key=key, value=key, scale=2.0)
    return attention_map(mixer.system())


def rank_is_not_the_state(*, causal: bool = True) -> Certificate:
    """Rank of the map of linear attention, masked or not, against the states it needs."""
    query, key, value = normal(np.random.default_rng(0), 3, 20, 4)
    mixer = LinearAttention(query=query, key=key, value=value, causal=causal)
    past = LinearAttention(query=query, key=key, value=value)
    needed = int(hankel_ranks(attention_map(past.system()), tolerance=RANK).max())
    rank = int(torch.linalg.matrix_rank(attention_map(mixer.system()), rtol=RANK))
    return shown(
        "the rank of a causal map is not the number of its states",
        float(abs(rank - needed)),
        beyond=0.0,
        case={"tokens": 20, "features": 4, "rank of the map": rank, "Hankel rank": needed},
        method="linear attention, elu + 1, relative tolerance 1e-10",
    )


CLAIMS = (
    Claim(
        id="DSF-5",
        table=Table.PAPER,
        statement="No finite number of states serves softmax attention at every length.",
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=no_state_serves_every_length,
        quote=(
            "Softmax attention translates to a recurrent model within the DSF, however the "
            "hidden state dimension needs to be infinite."
        ),
        place="Sec. 1; also 4.1",
        hypotheses=(
            ("class (13): φ of q_i alone, ψ of k_j alone, scalar normaliser η(q_i, k_1 … k_i)"),
        ),
        note=(
            "The check shows more than the paper says: no linear time-varying system with "
            "finitely many states does, whatever its coefficients may see, since at least ⌊L/2⌋ "
            "are needed at length L for all queries and keys but a null set."
        ),
    ),
    Claim(
        id="DSF-6",
        table=Table.OWN,
        statement=(
            "Where coefficients may see the prefix, ⌊L/2⌋ states are enough for softmax "
            "attention at the one length L."
        ),
        standing=Standing.OWN,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=prefix_needs_half,
        note=(
            "At length L the cache is an exact system with L states (A = I, B_t = e_t, C_t = row "
            "t of the map), and ⌊L/2⌋ states suffice. With features of one token no finite "
            "number does, at any length of two tokens or more: DSF-30. The paper says infinite "
            "for that class, and names transformer decoders as systems of increasing state size "
            "itself (end of 3.2.1)."
        ),
    ),
    Claim(
        id="DSF-7",
        table=Table.OWN,
        statement=(
            "The minimal order of a generic softmax map is ⌊L/2⌋ with D free and ⌈L/2⌉ with D = "
            "0 where the read follows the update."
        ),
        standing=Standing.OWN,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=minimal_order,
    ),
    Claim(
        id="DSF-21",
        table=Table.OWN,
        statement="The rank of a causal attention map is not the number of its states.",
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=rank_is_not_the_state,
        note=(
            "Masking makes the map of linear attention triangular with a positive diagonal: full "
            "rank whatever the state. Ranks of Hankel blocks count states."
        ),
    ),
    Claim(
        id="DSF-30",
        table=Table.PAPER,
        statement=(
            "No separable attention with finitely many features of one token is softmax "
            "attention, at any length of two tokens or more."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=features_of_one_token,
        quote=(
            "… can only be approximated by separable attention mechanisms, SSMs, or RNNs; but no "
            "other architecture is equivalent."
        ),
        place="Sec. 4.1",
        hypotheses=(
            ("class (13): φ of q_i alone, ψ of k_j alone, scalar normaliser η(q_i, k_1 … k_i)"),
            "n finite",
        ),
        note=(
            "Scope: at a fixed length systems whose coefficients may see the prefix are "
            "equivalent to softmax attention with ⌊L/2⌋ states (DSF-6)."
        ),
    ),
)
