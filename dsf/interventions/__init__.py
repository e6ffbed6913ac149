"""Edited runs of a model, and models with fewer states or a smaller cache.

Names are imported on first use: the command line reads ``edits``, which needs no torch.
"""

from typing import TYPE_CHECKING

from dsf.runtime.first_use import finding

if TYPE_CHECKING:
    from dsf.interventions.fewer_states import ReducedStates as ReducedStates
    from dsf.interventions.fewer_states import reduce_states as reduce_states
    from dsf.interventions.intervention import Intervention as Intervention
    from dsf.interventions.intervention import intervene as intervene
    from dsf.interventions.ledger import Ledger as Ledger
    from dsf.interventions.linearisation import LinearisationPlan as LinearisationPlan
    from dsf.interventions.linearisation import PlanRow as PlanRow
    from dsf.interventions.linearisation import linearise as linearise
    from dsf.interventions.run_audit import audit as audit
    from dsf.interventions.state_budget import StatePlan as StatePlan
    from dsf.interventions.state_budget import plan_state as plan_state
    from dsf.interventions.sweeps import sweep as sweep


__getattr__ = finding(__name__)
