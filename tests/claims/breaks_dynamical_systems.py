"""One thing changed in each check, after which its verdict must be another one."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from dsf.algebra import reverse
from dsf.certificates import Certificate
from dsf.claims.dynamical_systems.bases import decay_is_the_criterion, spectrum_belongs_to_the_map
from dsf.claims.dynamical_systems.duality import (
    channels_share_a_map,
    duality_is_separable,
    key_alone_suffices,
)
from dsf.claims.dynamical_systems.effective_state import best_error
from dsf.claims.dynamical_systems.every_form import forms_agree, never_reads_ahead
from dsf.claims.dynamical_systems.gates import reversed_gate, softplus_is_a_power, unit_variance
from dsf.claims.dynamical_systems.orders import ORDERS, hankel_bounds, heads_and_states
from dsf.claims.dynamical_systems.output_gate import normaliser_is_a_gate
from dsf.claims.dynamical_systems.padding import zero_padding
from dsf.claims.dynamical_systems.parameters import FORMULAS, first_steps, parameter_counts
from dsf.claims.dynamical_systems.recall import runs_in_the_grids
from dsf.claims.dynamical_systems.separable import duality_condition, write_index
from dsf.claims.dynamical_systems.softmax_states import (
    infinite_at_fixed_length,
    minimal_order,
    no_state_serves_every_length,
    rank_measures_the_state,
)
from dsf.claims.dynamical_systems.taylor import monomials_approach_softmax
from dsf.mixers import SoftmaxAttention


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


def rising():
    """Pre-activations that grow, so that no ratio lies above one."""
    return torch.linspace(-2, 2, 64, dtype=torch.float64)


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
    "DSF-6": partial(infinite_at_fixed_length, partial(SoftmaxAttention, softcap=1.0)),
    "DSF-7": partial(minimal_order, lambda query, key: (query @ key.T).tril()),
    "DSF-8": partial(hankel_bounds, ORDERS | {"InLine attention": lambda n: n}),
    "DSF-9": partial(best_error, lambda values, states: values[:, states - 1]),
    "DSF-11": partial(softplus_is_a_power, 1),
    "DSF-12": partial(duality_is_separable, exclusive),
    "DSF-13": partial(key_alone_suffices, 0.0),
    "DSF-14": partial(duality_condition, counted),
    "DSF-15": partial(channels_share_a_map, ((1.0, 2.0, 3.0), (1.0, 2.0, 3.0))),
    "DSF-16": partial(zero_padding, 1),
    "DSF-17": partial(spectrum_belongs_to_the_map, still),
    "DSF-18": partial(normaliser_is_a_gate, lambda normaliser: 1 / normaliser.roll(1)),
    "DSF-19": partial(decay_is_the_criterion, rising),
    "DSF-20": partial(reversed_gate, 0.9),
    "DSF-21": partial(rank_measures_the_state, causal=False),
    "DSF-22": partial(heads_and_states, lambda key, _heads, channels: key * channels),
    "DSF-23": partial(unit_variance, lambda decay: (1 - decay) ** 2),
    "DSF-24": partial(first_steps, as_it_is),
    "DSF-25": partial(parameter_counts, FORMULAS | {"S6": lambda d, n: d * d + 3 * d * n + 2 * d}),
    "DSF-26": partial(runs_in_the_grids, 1376),
}
