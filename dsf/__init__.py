"""Read the token mixers of trained models as linear time-varying systems.

The public names, listed by hand and found on first use, so that ``import dsf`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dsf.runtime.distribution import VERSION

__version__ = VERSION

_HOME = {
    "System": "dsf.systems.system",
    "respond": "dsf.evaluate",
    "attention_map": "dsf.evaluate",
    "inspect": "dsf.inspection",
    "probe": "dsf.inspection",
    "attentions": "dsf.inspection",
    "load": "dsf.inspection",
    "Adapter": "dsf.inspection",
    "attribute": "dsf.attribution",
    "stack": "dsf.attribution",
    "audit": "dsf.interventions",
    "intervene": "dsf.interventions",
    "plan_state": "dsf.interventions",
    "sweep": "dsf.interventions",
    "linearise": "dsf.interventions",
    "compare": "dsf.report.comparison",
    "show": "dsf.report.page",
}
_UNLISTED = {"reduce_states": "dsf.interventions"}
"""Names that are found here as well, and listed by their subpackage alone."""
_SUBPACKAGES = {
    "systems": "dsf.systems",
    "evaluate": "dsf.evaluate",
    "mixers": "dsf.mixers",
    "measures": "dsf.measures",
    "certify": "dsf.certificates",
    "layers": "dsf.layers",
    "models": "dsf.models",
    "edits": "dsf.interventions.edits",
    "report": "dsf.report",
    "jobs": "dsf.jobs",
    "testing": "dsf.testing",
}

__all__ = [*_HOME, *_SUBPACKAGES]


def __getattr__(name: str) -> Any:
    if home := {**_HOME, **_UNLISTED}.get(name):
        return getattr(import_module(home), name)
    if name in _SUBPACKAGES:
        return import_module(_SUBPACKAGES[name])
    raise AttributeError(f"module 'dsf' has no attribute '{name}'")


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
