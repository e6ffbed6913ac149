"""How many states a softmax map needs: ranks of the blocks that the past reaches through the state.

Without feedthrough the block ``a[t:, :t+1]`` passes through the state after token t. It is the
Hankel block of the map that is written one token later.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.certificates.exact import PRIME, independent_rows, integer_row
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued
from dsf.claims.meta_linear.random_maps import normal, softmax_map
from dsf.evaluate import attention_map
from dsf.measures import hankel_ranks
from dsf.mixers import MetaLinearAttention

STEPS, KEY = 64, 5
SHORT = 14


def written_later(map: Float[Tensor, "time time"]) -> Float[Tensor, "later later"]:
    """The same weights, every row one token later: its Hankel blocks contain the diagonal too."""
    return torch.nn.functional.pad(map, (0, 1, 1, 0))


def states_that_it_takes(target: Float[Tensor, "time time"] | None = None) -> Certificate:
    """The rank of the middle block of a softmax map, exactly; then all blocks, measured."""
    map = softmax_map(STEPS) if target is None else target
    steps = len(map)
    middle = (steps - 1) // 2
    needed = -(-steps // 2)
    rows = [integer_row(row) for row in map[middle:, : middle + 1]]
    exact = len(independent_rows(rows, needed))
    measured = int(hankel_ranks(written_later(map)).max())
    return argued(
        f"d_k is at least the rank of every block a[t:, :t+1]; at {steps} tokens that is {needed}",
        "a[t:, :t+1] is a product of what later queries read from the state after token t and of "
        "what the keys up to t left there, so its rank is at most the number of states",
        {
            f"{needed} rows of the middle block are independent modulo {PRIME}": exact == needed,
            "no block measured has a larger rank": measured <= needed,
            "the blocks of a mixer with 5 states have rank 5": _rank_of_a_mixer() == KEY,
        },
        method="exact elimination on the stored map",
        observed=float(measured),
    )


def rank_of_the_state(channels: int = KEY) -> Certificate:
    """Blocks of a short map in fractions, eliminated exactly; then the ranks of a longer one."""
    rows = _short_map(channels)
    ranks = [len(independent_rows([row[: t + 1] for row in rows[t:]], SHORT)) for t in range(SHORT)]
    measured = _rank_of_a_mixer()
    return argued(
        f"every block of the map of a mixer with d_k = {KEY} has at most rank {KEY}",
        "the block is a product of a matrix with d_k columns and one with d_k rows",
        {
            f"exact rank of every block at {SHORT} tokens": max(ranks) == KEY,
            f"measured rank at {STEPS} tokens": measured == KEY,
        },
        method="exact elimination, and Hankel singular values above 1e-10 of the largest",
        observed=float(measured),
    )


def _rank_of_a_mixer() -> int:
    rng = np.random.default_rng(0)
    mixer = MetaLinearAttention(
        query=normal(rng, STEPS, KEY),
        decay=torch.sigmoid(normal(rng, STEPS, KEY)) ** (1 / 16),
        value=torch.ones(STEPS, 1, dtype=torch.float64),
    )
    return int(hankel_ranks(written_later(attention_map(mixer.system())), tolerance=1e-10).max())


def _short_map(channels: int) -> list[list[int]]:
    """A map of small whole numbers: queries, keys and decays between 1 and 3."""
    draw = np.random.default_rng(0).integers
    query, key, decay = (draw(1, 4, (SHORT, channels)).tolist() for _ in range(3))
    rows = [[0] * SHORT for _ in range(SHORT)]
    for s in range(SHORT):
        state = key[s]
        for t in range(s, SHORT):
            if t > s:
                state = [a * h for a, h in zip(decay[t], state, strict=True)]
            rows[t][s] = sum(q * h for q, h in zip(query[t], state, strict=True))
    return rows


CLAIMS = (
    Claim(
        id="MLA-11",
        table=Table.OWN,
        statement=(
            "A softmax map is out of reach of fewer states than the largest rank of a block "
            "a[t:, :t+1]; for one drawn map of 64 tokens that is half as many as there are "
            "tokens."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=states_that_it_takes,
        quote=(
            "its dimension size (also the model memory size) is the guarantee of approximation "
            "ability"
        ),
        place="A2.4 iii), in favour of the same",
    ),
    Claim(
        id="MLA-23",
        table=Table.OWN,
        statement="The state of a head has at most rank d_k, whatever the length.",
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=rank_of_the_state,
    ),
)
