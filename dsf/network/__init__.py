"""A model across its layers: what each token adds, shares of a logit, and edited runs."""

from dsf.network.attribution import Attribution
from dsf.network.entry import stack
from dsf.network.fewer_states import (
    KeptStates,
    ReducedStates,
    best_states,
    kept_states,
    reduce_states,
    strongest_states,
)
from dsf.network.intervention import Intervention, intervene
from dsf.network.paths import Paths
from dsf.network.stacked import Stack
from dsf.network.state_gramians import StateProducts, state_products
from dsf.network.sweeps import sweep

__all__ = [
    "Attribution",
    "Intervention",
    "KeptStates",
    "Paths",
    "ReducedStates",
    "Stack",
    "StateProducts",
    "best_states",
    "intervene",
    "kept_states",
    "reduce_states",
    "stack",
    "state_products",
    "strongest_states",
    "sweep",
]
