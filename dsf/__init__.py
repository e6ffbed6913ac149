"""Read the token mixers of trained models as linear time-varying systems.

The public names, listed by hand and found on first use, so that ``import dsf`` costs nothing.
"""

from typing import TYPE_CHECKING

from dsf.runtime.distribution import VERSION
from dsf.runtime.first_use import finding

__all__ = [
    "Adapter", "System", "attention_map", "attentions", "attribute", "audit", "certify", "compare",
    "edits", "evaluate", "inspect", "intervene", "jobs", "layers", "linearise", "load", "measures",
    "mixers", "models", "plan_state", "probe", "report", "respond", "show", "stack", "sweep",
    "systems", "testing",
]  # fmt: skip
__version__ = VERSION
__getattr__ = finding(__name__)


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from dsf import certificates as certify
    from dsf import evaluate, jobs, layers, measures, mixers, models, report, systems, testing
    from dsf.attribution import attribute, stack
    from dsf.evaluate import attention_map, respond
    from dsf.inspection import Adapter, attentions, inspect, load, probe
    from dsf.interventions import (
        audit,
        edits,
        intervene,
        linearise,
        plan_state,
        reduce_states,
        sweep,
    )
    from dsf.report.comparison import compare
    from dsf.report.page import show
    from dsf.systems.system import System
