"""Edited runs of a model, and models with fewer states or a smaller cache.

Names are imported on first use: the command line reads ``edits``, which needs no torch.
"""

from typing import TYPE_CHECKING

from dsf.runtime.first_use import finding

if TYPE_CHECKING:
    from dsf.interventions.fewer_states import ReducedStates, reduce_states
    from dsf.interventions.intervention import Intervention, intervene
    from dsf.interventions.ledger import Ledger
    from dsf.interventions.linearisation import LinearisationPlan, PlanRow, linearise
    from dsf.interventions.run_audit import audit
    from dsf.interventions.state_budget import StatePlan, plan_state
    from dsf.interventions.sweeps import sweep

__all__ = [
    "Intervention",
    "Ledger",
    "LinearisationPlan",
    "PlanRow",
    "ReducedStates",
    "StatePlan",
    "audit",
    "intervene",
    "linearise",
    "plan_state",
    "reduce_states",
    "sweep",
]

__getattr__ = finding(__name__)
