"""One thing changed in each check, after which its verdict must be another one."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import sympy
import torch

from dsf.certificates import Certificate
from dsf.claims.dynamical_systems.bases import (
    spectrum_depends_on_the_basis,
    stability_by_normalisation,
)
from dsf.claims.dynamical_systems.duality import (
    channels_have_maps_of_their_own,
    duality_is_separable,
    key_alone_does_not_suffice,
    step_does_not_cancel,
)
from dsf.claims.dynamical_systems.effective_state import best_error
from dsf.claims.dynamical_systems.every_form import forms_agree, never_reads_ahead, of_others
from dsf.claims.dynamical_systems.gates import reversed_gate, softplus_is_a_power, unit_variance
from dsf.claims.dynamical_systems.orders import ORDERS, hankel_bounds, heads_and_states
from dsf.claims.dynamical_systems.output_gate import normaliser_is_a_gate
from dsf.claims.dynamical_systems.padding import wider_layer, zero_padding
from dsf.claims.dynamical_systems.parameters import FORMULAS, first_steps, parameter_counts
from dsf.claims.dynamical_systems.recall import hours_of_the_sweeps, runs_in_the_grids
from dsf.claims.dynamical_systems.separable import (
    duality_condition,
    normalisers_cancel,
    swapped_projection,
    write_index,
)
from dsf.claims.dynamical_systems.softmax_states import (
    features_of_one_token,
    minimal_order,
    no_state_serves_every_length,
    prefix_needs_half,
    rank_is_not_the_state,
)
from dsf.claims.dynamical_systems.taylor import monomials_approach_softmax, series_of_features
from dsf.mixers import SoftmaxAttention
from dsf.systems.algebra import reverse


def reads_late(system):
    """Every token reads the state before its update."""
    return replace(system, reads_before_update=True)


def exclusive(rate, step):
    """The step of the token itself left out."""
    return (rate * (step.cumsum(dim=0) - step)).exp()


def few_features(query, key):
    """Weights of linear attention, of 17 features, too few for 64 tokens."""
    return (query @ key.T).square() + 1


def still(steps, states):
    """Bases that change nothing."""
    return torch.eye(states, dtype=torch.float64).expand(steps + 1, states, states)


def counted(read, write):
    """A normaliser that only grows and looks at nothing."""
    return torch.arange(1, len(read + write) + 1, dtype=read.dtype)


def one_order_less(softmax, order):
    """The last monomials left out."""
    return softmax.expansion(max(order - 1, 0))


def as_it_is(module):
    """The layer's own initialisation, left alone."""
    return module


BREAKS: dict[str, Callable[[], Certificate]] = {
    "DSF-1": partial(forms_agree, reads_late),
    "DSF-2": partial(write_index, lambda normaliser: normaliser),
    "DSF-3": partial(never_reads_ahead, reverse),
    "DSF-4": partial(monomials_approach_softmax, one_order_less),
    "DSF-5": partial(no_state_serves_every_length, few_features),
    "DSF-6": partial(prefix_needs_half, partial(SoftmaxAttention, softcap=1.0)),
    "DSF-7": partial(minimal_order, lambda query, key: (query @ key.T).tril()),
    "DSF-8": partial(hankel_bounds, ORDERS | {"InLine attention": lambda n: n}),
    "DSF-9": partial(best_error, lambda values, states: values[:, states - 1]),
    "DSF-11": partial(softplus_is_a_power, 1),
    "DSF-12": partial(duality_is_separable, exclusive),
    "DSF-13": partial(key_alone_does_not_suffice, 0.0),
    "DSF-14": partial(duality_condition, counted),
    "DSF-15": partial(channels_have_maps_of_their_own, ((1.0, 2.0, 3.0), (1.0, 2.0, 3.0))),
    "DSF-16": partial(zero_padding, 1),
    "DSF-17": partial(spectrum_depends_on_the_basis, still),
    "DSF-18": partial(normaliser_is_a_gate, lambda normaliser: 1 / normaliser.roll(1)),
    "DSF-19": partial(stability_by_normalisation, lambda scores: scores),
    "DSF-20": partial(reversed_gate, 0.9),
    "DSF-21": partial(rank_is_not_the_state, causal=False),
    "DSF-22": partial(heads_and_states, lambda key, _heads, channels: key * channels),
    "DSF-23": partial(unit_variance, lambda decay: (1 - decay) ** 2),
    "DSF-24": partial(first_steps, as_it_is),
    "DSF-25": partial(parameter_counts, FORMULAS | {"S6": lambda d, n: d * d + 3 * d * n + 2 * d}),
    "DSF-26": partial(runs_in_the_grids, 4),
    "DSF-28": partial(forms_agree, reads_late, forms=of_others),
    "DSF-29": partial(series_of_features, lambda _powers: sympy.Integer(1)),
    "DSF-30": partial(features_of_one_token, lambda query, key: 1 + query * key),
    "DSF-31": partial(wider_layer, 1.0),
    "DSF-32": partial(normalisers_cancel, lambda eta, j: eta[j - 1]),
    "DSF-33": partial(step_does_not_cancel, (0.0, 0.0, 0.0)),
    "DSF-36": partial(hours_of_the_sweeps, 2),
    "DSF-37": partial(swapped_projection, lambda u, to_key, _to_value: u @ to_key),
}
