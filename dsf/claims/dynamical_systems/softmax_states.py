"""How many states softmax attention needs: at one length, and at every length."""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.certificates.exact import independent_rows, integer_row
from dsf.claims.claim import Claim, Standing
from dsf.claims.deciding import argued, held, refuted
from dsf.claims.dynamical_systems.drawn import normal
from dsf.claims.dynamical_systems.paper_form import one_system
from dsf.evaluate import attention_map
from dsf.measures import hankel_ranks, largest_difference
from dsf.mixers import LinearAttention, SoftmaxAttention
from dsf.realisation import realise

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


def infinite_at_fixed_length(
    mixer: Callable[..., SoftmaxAttention] = SoftmaxAttention,
) -> Certificate:
    """The cache is an exact system of L states; count the states that are really needed."""
    steps = 20
    query, key, value = normal(np.random.default_rng(0), 3, steps, 4)
    attention = mixer(query=query, key=key, value=value, scale=2.0)
    scores = (2.0 * query @ key.T).exp().tril()
    weights = scores / scores.sum(dim=-1, keepdim=True)
    cache = one_system(attention.system())
    small = realise(weights, tolerance=RANK)
    errors = [float(largest_difference(attention_map(each), weights)) for each in (cache, small)]
    exact = max(errors) < ROUNDING
    return refuted(
        f"softmax attention of {steps} tokens has no system with finitely many states",
        float(small.state_size) if exact else float("nan"),
        beyond=0.0,
        witness={
            "tokens": steps,
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


def rank_measures_the_state(*, causal: bool = True) -> Certificate:
    """Rank of the map of linear attention, masked or not, against the states it needs."""
    query, key, value = normal(np.random.default_rng(0), 3, 20, 4)
    mixer = LinearAttention(query=query, key=key, value=value, causal=causal)
    past = LinearAttention(query=query, key=key, value=value)
    needed = int(hankel_ranks(attention_map(past.system()), tolerance=RANK).max())
    rank = int(torch.linalg.matrix_rank(attention_map(mixer.system()), rtol=RANK))
    return refuted(
        "the rank of the causal map is the number of states",
        float(abs(rank - needed)),
        beyond=0.0,
        witness={"tokens": 20, "features": 4, "rank of the map": rank, "Hankel rank": needed},
        method="linear attention, elu + 1, relative tolerance 1e-10",
    )


CLAIMS = (
    Claim(
        id="DSF-5",
        statement="No finite number of states serves softmax attention at every length.",
        standing=Standing.SECOND_HAND,
        expected=Verdict.PROVED,
        check=no_state_serves_every_length,
        note=(
            "A finite state is exact at one length, yet the number needed grows with it: at least "
            "⌊L/2⌋ for all queries and keys but a null set."
        ),
    ),
    Claim(
        id="DSF-6",
        statement="Softmax attention needs an infinite state even at a fixed length.",
        standing=Standing.UNCONFIRMED,
        expected=Verdict.REFUTED,
        check=infinite_at_fixed_length,
        note=(
            "At length L the cache is an exact system with L states (A = I, B_t = e_t, C_t = row t "
            "of the map), and floor(L/2) states suffice."
        ),
    ),
    Claim(
        id="DSF-7",
        statement=(
            "The minimal order of a generic softmax map is ⌊L/2⌋ with D free and ⌈L/2⌉ with D = 0 "
            "where the read follows the update."
        ),
        standing=Standing.DERIVED,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=minimal_order,
    ),
    Claim(
        id="DSF-21",
        statement="The rank of the causal attention map measures the state.",
        standing=Standing.UNCONFIRMED,
        expected=Verdict.REFUTED,
        check=rank_measures_the_state,
        note=(
            "Masking makes the map of linear attention triangular with a positive diagonal: full "
            "rank whatever the state. Ranks of Hankel blocks count states."
        ),
    ),
)
