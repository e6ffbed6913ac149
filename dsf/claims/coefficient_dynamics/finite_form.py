"""For which phi the coefficients phi(q_i' A_i ... A_{j+1} k_j) come from finitely many states."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.certificates.exact import independent_rows
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, out_of_reach, shown
from dsf.evaluate import attention_map
from dsf.measures import hankel_ranks
from dsf.mixers.ingredients.feature_maps import exp, identity, relu, softplus
from dsf.systems.system import System
from dsf.systems.transition import Dense, Diagonal

STEPS, STATES = 16, 3
TOLERANCE = 1e-10
NEAR, APART = 1e-12, 0.1

Phi = Callable[[Tensor], Tensor]


def linear_needs_no_more_states(phi: Phi = identity) -> Certificate:
    """Exact ranks of all Hankel blocks of whole-number coefficients, dense A; and of a real map."""
    rng = np.random.default_rng(0)
    A = torch.tensor(rng.integers(-1, 2, (STEPS, STATES, STATES))).double()
    query, key = (torch.tensor(rng.integers(-3, 4, (STEPS, STATES))).double() for _ in range(2))
    system = System.from_write_and_read(Dense(A), write=key, read=query)
    weights = phi(attention_map(system)).tril()
    blocks = [weights[t + 1 :, : t + 1] for t in range(STEPS - 1)]
    whole = torch.equal(weights, weights.round())
    ranks = [_rank(block.round().long()) for block in blocks]
    plain = _decaying(identity, torch.ones(STEPS, STATES, dtype=torch.float64))
    attained = int(hankel_ranks(phi(plain).tril(), tolerance=TOLERANCE).max())
    return argued(
        "with a linear phi every block of coefficients after a token has rank n at most",
        "the block is the product of q_i' A_i ... A_{t+1} and A_t ... A_{j+1} k_j, and the inner "
        "dimension of that product is n",
        {
            "the coefficients are whole numbers": whole,
            "exact ranks at most n": max(ranks) <= STATES,
            "and n is attained, with A = I": attained == STATES,
        },
        method=f"{STEPS} tokens, n = {STATES}, dense A with entries -1, 0, 1",
        observed=float(max(ranks)),
        figures={"exact ranks": ranks},
    )


def _rank(block: Int[Tensor, "rows columns"]) -> int:
    return len(independent_rows(block.tolist(), block.shape[1]))


def products(x: Float[Tensor, "time key"]) -> Float[Tensor, "time features"]:
    """All n(n+1)/2 products of two entries, so that products(q).products(k) = (q.k)^2."""
    i, j = torch.triu_indices(x.shape[-1], x.shape[-1])
    times = 2 - (i == j).to(x.dtype)
    return x[..., i] * x[..., j] * times.sqrt()


def square(x: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """phi(x) = x^2."""
    return x.square()


def only_linear_readouts() -> Certificate:
    """The lemma behind the sentence was not read."""
    return out_of_reach(
        "only linear readouts permit a parallel recurrent computation",
        "the paper's lemma: whether it bounds the number of states, or asks for a readout of n "
        "states, is not known here; without such a bound x² is a readout that is not linear",
    )


def square_is_finite(phi: Phi = square) -> Certificate:
    """A system of n(n+1)/2 states against squared coefficients, with and without decay."""
    query, key, decay = _drawn()
    i, j = torch.triu_indices(STATES, STATES)
    off, sizes = 0.0, set()
    for kept in (torch.ones_like(decay), decay):
        system = System.from_write_and_read(
            Diagonal(kept[:, i] * kept[:, j]), write=products(key), read=products(query)
        )
        expected = phi(_decaying(identity, kept)).tril()
        off = max(off, (attention_map(system) - expected).abs().max().item())
        sizes.add(system.state_size)
    bend = (phi(2 * query) - 2 * phi(query)).abs().max().item()
    others = {"square": square, "cube": _cube, "ReLU": relu, "exp": exp, "softplus": softplus}
    one = torch.ones_like(decay)
    ranks = {
        name: int(hankel_ranks(_decaying(other, one).tril(), tolerance=TOLERANCE).max())
        for name, other in others.items()
    }
    return shown(
        "phi(x) = x^2, which is not linear, has a recurrent form with n(n+1)/2 states",
        bend if off <= NEAR else 0.0,
        beyond=APART,
        case={
            "phi": "x^2, with A = I and with diagonal decay",
            "states": sorted(sizes),
            "largest error of the recurrent form": off,
            "distance of phi(2x) from 2 phi(x)": bend,
            "largest Hankel ranks with A = I": ranks,
            "ceiling of the test": STEPS // 2,
        },
        method=f"{STEPS} tokens, n = {STATES}",
    )


def _cube(x: Tensor) -> Tensor:
    return x**3


def _drawn() -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys, and decays of each state between 0.5 and 1."""
    rng = np.random.default_rng(0)
    query, key = (torch.tensor(rng.standard_normal((STEPS, STATES))) for _ in range(2))
    return query, key, torch.tensor(rng.uniform(0.5, 1, (STEPS, STATES)))


def _decaying(phi: Phi, decay: Tensor) -> Tensor:
    """phi of the map of the linear system; above the diagonal phi(0)."""
    query, key, _ = _drawn()
    return phi(attention_map(System.from_write_and_read(Diagonal(decay), write=key, read=query)))


CLAIMS = (
    Claim(
        id="CDY-3",
        table=Table.OWN,
        statement="A linear φ gives blocks of coefficients of rank n at most.",
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=linear_needs_no_more_states,
    ),
    Claim(
        id="CDY-4",
        table=Table.PAPER,
        statement="Only a linear readout permits parallel recurrent computation.",
        standing=Standing.SECOND_HAND,
        expected=Verdict.UNKNOWN,
        check=only_linear_readouts,
        quote="Only linear readout maps permit parallel recurrent computation.",
        place="ICLR 2026 review (OpenReview 9uChwgWHX9), R4, item 1",
        hypotheses=(
            "not known: the lemma was not read",
            'R4 later: "While the lemma is correct, …"',
        ),
        note=(
            "Open until the lemma is read. CDY-8 shows what a reading without a bound on the "
            "number of states would have to exclude."
        ),
    ),
    Claim(
        id="CDY-8",
        table=Table.OWN,
        statement="φ(x) = x² has a recurrent form with n(n+1)/2 states.",
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=square_is_finite,
        note=(
            "Also with diagonal decay: the states hold the products of two entries of the key. "
            "Any polynomial has one; the cube would need 10 states here, more than the test of "
            "16 tokens can show."
        ),
    ),
)
