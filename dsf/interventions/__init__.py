"""Edited runs of a model, and models with fewer states or a smaller cache.

Names are imported on first use: the command line reads ``edits``, which needs no torch.
"""

from typing import TYPE_CHECKING

from dsf.runtime.first_use import finding

if TYPE_CHECKING:
    from dsf.interventions.fewer_states import (
        KeptStates,
        ReducedStates,
        StateProducts,
        best_states,
        kept_states,
        reduce_states,
        state_products,
        strongest_states,
    )
    from dsf.interventions.intervention import Intervention, intervene
    from dsf.interventions.linearisation import LinearisationPlan, PlanRow, linearise
    from dsf.interventions.state_plan import StatePlan, plan_state
    from dsf.interventions.sweeps import sweep

_HOMES = {
    "Intervention": "dsf.interventions.intervention",
    "KeptStates": "dsf.interventions.fewer_states",
    "LinearisationPlan": "dsf.interventions.linearisation",
    "PlanRow": "dsf.interventions.linearisation",
    "ReducedStates": "dsf.interventions.fewer_states",
    "StatePlan": "dsf.interventions.state_plan",
    "StateProducts": "dsf.interventions.fewer_states",
    "best_states": "dsf.interventions.fewer_states",
    "intervene": "dsf.interventions.intervention",
    "kept_states": "dsf.interventions.fewer_states",
    "linearise": "dsf.interventions.linearisation",
    "plan_state": "dsf.interventions.state_plan",
    "reduce_states": "dsf.interventions.fewer_states",
    "state_products": "dsf.interventions.fewer_states",
    "strongest_states": "dsf.interventions.fewer_states",
    "sweep": "dsf.interventions.sweeps",
}

__all__ = [
    "Intervention",
    "KeptStates",
    "LinearisationPlan",
    "PlanRow",
    "ReducedStates",
    "StatePlan",
    "StateProducts",
    "best_states",
    "intervene",
    "kept_states",
    "linearise",
    "plan_state",
    "reduce_states",
    "state_products",
    "strongest_states",
    "sweep",
]

__getattr__ = finding("dsf.interventions", _HOMES)
