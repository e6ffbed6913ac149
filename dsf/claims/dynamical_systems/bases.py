"""Which quantities are properties of the map, and which of the coordinates of the state."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import held, shown
from dsf.claims.dynamical_systems.drawn import normal, projected_tokens
from dsf.claims.dynamical_systems.recurrent_forms import gated_forms, selective_forms
from dsf.claims.dynamical_systems.separable import row_sums_in_reach, separable
from dsf.evaluate import attention_map
from dsf.measures import largest_difference, transition_eigenvalues
from dsf.mixers.ingredients import elu_plus_one
from dsf.systems.algebra import change_of_basis
from dsf.systems.system import System

ROUNDING = 1e-12
LENGTHS = (64, 256, 1024)


def random_bases(steps: int, states: int) -> Tensor:
    """An invertible matrix between any two tokens: the identity plus a Gaussian part."""
    drawn = normal(np.random.default_rng(0), steps + 1, states, states)
    return torch.eye(states, dtype=drawn.dtype) + 0.3 * drawn


def spectrum_depends_on_the_basis(
    bases: Callable[[int, int], Tensor] = random_bases,
) -> Certificate:
    """Linear attention in other states: random ones, and those that make A the identity."""
    query, key, _ = projected_tokens()
    read, write = elu_plus_one(query), elu_plus_one(key)
    eta = row_sums_in_reach(read, write)
    system = separable(read, write, eta)
    turned = change_of_basis(system, bases(system.steps, system.state_size))
    one = torch.eye(system.state_size, dtype=eta.dtype)
    scales = torch.cat([eta[:1], eta])[:, None, None] * one
    still = change_of_basis(system, scales)
    change = max(_difference(system, other) for other in (turned, still))
    identity = float((still.A.dense() - one).abs().max())
    apart = float((_moduli(turned) - _moduli(system)).abs().max())
    preserved = max(change, identity) < ROUNDING
    return shown(
        "systems with one map have transitions with different eigenvalues",
        apart if preserved else float("nan"),
        beyond=ROUNDING,
        case={
            "largest difference of the maps": change,
            "largest difference of the moduli of the eigenvalues, random basis": apart,
            "eigenvalues of separable attention from, to": [
                float(_moduli(system).min()),
                float(_moduli(system).max()),
            ],
            "distance of A from the identity in the basis η": identity,
        },
        method="20 tokens, key width 4, elu + 1, float64",
    )


def _difference(first: System, second: System) -> float:
    return float(largest_difference(attention_map(first), attention_map(second)))


def _moduli(system: System) -> Tensor:
    return transition_eigenvalues(system).abs().sort(dim=-1).values


def normalised(scores: Tensor) -> Tensor:
    """Rows over their sums, as linear attention normalises."""
    return scores / scores.sum(dim=-1, keepdim=True)


def stability_by_normalisation(
    normalise: Callable[[Tensor], Tensor] = normalised,
) -> Certificate:
    """Largest eigenvalues of state-space models and gates, ratios of normalisers, and row sums."""
    largest = {
        name: float(transition_eigenvalues(form.system).abs().max())
        for form in (*selective_forms(), *gated_forms())
        for name in [form.name]
    }
    ratios, sums, plain = [], [], []
    for tokens in LENGTHS:
        query, key = normal(np.random.default_rng(tokens), 2, tokens, 4)
        scores = (elu_plus_one(query) @ elu_plus_one(key).T).tril()
        eta = scores.sum(dim=-1)
        ratios.append(float((eta[:-1] / eta[1:]).max()))
        sums.append(float(normalise(scores).sum(dim=-1).abs().max()))
        plain.append(float(eta.max()))
    return held(
        "eigenvalues of S6, the duality and the gated networks are below 1 in size; those of "
        "linear attention are not, and its normaliser keeps every row at sum 1",
        {
            "state-space models and gates stay below 1": max(largest.values()) < 1,
            "attention has eigenvalues above 1": min(ratios) > 1,
            "normalised rows sum to 1 at every length": all(abs(s - 1) < ROUNDING for s in sums),
            "rows without normaliser grow with the length": plain[-1] > 4 * plain[0],
        },
        method=f"{', '.join(map(str, LENGTHS))} tokens, key width 4, elu + 1, float64",
        observed=max(ratios),
        figures={
            "tokens": list(LENGTHS),
            "largest eigenvalue η_{i-1}/η_i of attention": ratios,
            "largest row sum, normalised": sums,
            "largest row sum, not normalised": plain,
            "largest eigenvalue of the others": largest,
        },
    )


CLAIMS = (
    Claim(
        id="DSF-17",
        table=Table.OWN,
        statement="The spectrum of A depends on the state basis, the map does not.",
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=spectrum_depends_on_the_basis,
        quote="these two cancel out when computing the output",
        place="Sec. 4.2, of η in Λ_i and B_i",
        note=(
            "A change of state basis leaves the map alone and changes the eigenvalues; with T_i "
            "= η_i I every separable attention has A_i = I. The quoted half sentence says so of "
            "η."
        ),
    ),
    Claim(
        id="DSF-19",
        table=Table.PAPER,
        statement=(
            "Eigenvalues of state-space models and gated networks stay below 1 in size; those of "
            "attention do not, and its normaliser keeps the rows bounded."
        ),
        standing=Standing.STATED,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=stability_by_normalisation,
        quote=(
            "In the case of SSMs and RNNs, the eigenvalues are constrained to be stable by "
            "construction, for attention-based models this is not the case and stability needs "
            "to be obtained via normalization."
        ),
        place="Sec. 6",
        hypotheses=("normalised linear attention, elu + 1, in the paper's state basis",),
        note=(
            "At every length some ratios η_{i-1}/η_i lie above 1 while every row sums to exactly "
            "1; without the normaliser row sums grow with the length."
        ),
    ),
)
