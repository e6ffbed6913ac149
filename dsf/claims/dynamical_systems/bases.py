"""What belongs to the map, and what only to the coordinates of the state."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsf.algebra import change_of_basis
from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing
from dsf.claims.deciding import refuted
from dsf.claims.dynamical_systems.attention_forms import NORMALISERS
from dsf.claims.dynamical_systems.drawn import normal, projected_tokens
from dsf.claims.dynamical_systems.separable import row_sums_in_reach, separable
from dsf.evaluate import attention_map
from dsf.ingredients import elu_plus_one
from dsf.measures import absolute_gain, largest_difference, transition_eigenvalues
from dsf.system import System

ROUNDING = 1e-12
TOKENS = 64


def random_bases(steps: int, states: int) -> Tensor:
    """A matrix for every place between tokens, the identity and a Gaussian part."""
    drawn = normal(np.random.default_rng(0), steps + 1, states, states)
    return torch.eye(states, dtype=drawn.dtype) + 0.3 * drawn


def spectrum_belongs_to_the_map(
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
    return refuted(
        "systems with one map have transitions with one set of eigenvalues",
        apart if preserved else float("nan"),
        beyond=ROUNDING,
        witness={
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


def drawn_pre_activations() -> Tensor:
    """What the normalisers are computed from."""
    return normal(np.random.default_rng(0), TOKENS)


def decay_is_the_criterion(
    pre_activations: Callable[[], Tensor] = drawn_pre_activations,
) -> Certificate:
    """Ratios of normalisers above one, and what the map does to a bounded signal.

    In the basis η the transitions are identities: the same map, the same gain.
    """
    x = pre_activations()
    rng = np.random.default_rng(1)
    read, write = torch.nn.functional.normalize(normal(rng, 2, TOKENS, 4), dim=-1)
    found: dict[str, dict[str, Any]] = {}
    largest, finite = [], []
    for name, g in NORMALISERS.items():
        eta = g(x)
        ratios = eta[:-1] / eta[1:]
        gain = float(absolute_gain(attention_map(separable(read, write, eta))))
        limit = float((torch.arange(1, TOKENS + 1) / eta).max())  # |q.k| <= 1
        finite.append(gain <= limit)
        largest.append(float(ratios.max()))
        found[name] = {
            "smallest, largest ratio": [float(ratios.min()), largest[-1]],
            "share above 1": float((ratios > 1).double().mean()),
            "largest absolute row sum": gain,
            "its bound without any ratio": limit,
        }
    return refuted(
        "an attention whose map is bounded has transitions of modulus at most 1",
        min(largest) - 1 if all(finite) else float("nan"),
        beyond=0.0,
        witness=found,
        method=f"{TOKENS} Gaussian pre-activations, unit queries and keys of width 4, float64",
    )


CLAIMS = (
    Claim(
        id="DSF-17",
        statement="The eigenvalues of A_i are a property of the layer's map.",
        standing=Standing.UNCONFIRMED,
        expected=Verdict.REFUTED,
        check=spectrum_belongs_to_the_map,
        note=(
            "A change of state basis leaves the map alone and changes the eigenvalues; with "
            "T_i = η_i I every separable attention has A_i = I."
        ),
    ),
    Claim(
        id="DSF-19",
        statement="|A| < 1 is the criterion of stability for the attention family.",
        standing=Standing.UNCONFIRMED,
        expected=Verdict.REFUTED,
        check=decay_is_the_criterion,
        note=(
            "Almost half of the ratios η_{i-1}/η_i lie above 1 while the row sums of the absolute "
            "map stay below a bound in which no ratio occurs."
        ),
    ),
)
