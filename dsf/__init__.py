"""Read the token mixers of trained models as linear time-varying systems.

The public names, listed by hand and found on first use, so that ``import dsf`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dsf.runtime.distribution import VERSION

__version__ = VERSION

_HOME = {
    "System": "dsf.systems.system",
    "ExplicitMap": "dsf.systems.composite",
    "SystemSum": "dsf.systems.composite",
    "respond": "dsf.evaluate",
    "attention_map": "dsf.evaluate",
    "row_blocks": "dsf.evaluate",
    "recurrent": "dsf.evaluate",
    "scan": "dsf.evaluate",
    "chunkwise": "dsf.evaluate",
    "convolution": "dsf.evaluate",
    "step": "dsf.evaluate",
    "realise": "dsf.evaluate.realisation",
    "reduce": "dsf.evaluate.realisation",
    "Certificate": "dsf.certificates",
    "Verdict": "dsf.certificates",
    "inspect": "dsf.inspection",
    "probe": "dsf.inspection",
    "support": "dsf.inspection",
    "check_adapter": "dsf.testing",
    "compare": "dsf.report.comparison",
    "Adapter": "dsf.inspection",
    "Inspection": "dsf.inspection",
    "attribute": "dsf.attribution",
    "stack": "dsf.attribution",
    "intervene": "dsf.interventions",
    "sweep": "dsf.interventions",
    "reduce_states": "dsf.interventions",
    "write_report": "dsf.report",
    "report_state": "dsf.report.plot",
    "view": "dsf.report",
    "playground": "dsf.report",
    "show_versions": "dsf.cli.doctor",
}
_SUBPACKAGES = {
    "mixers": "dsf.mixers",
    "layers": "dsf.layers",
    "algebra": "dsf.systems.algebra",
    "transition": "dsf.systems.transition",
    "ingredients": "dsf.mixers.ingredients",
    "measures": "dsf.measures",
    "exchange": "dsf.report.exchange",
    "scans": "dsf.evaluate.scans",
    "certify": "dsf.certificates",
    "edits": "dsf.interventions.edits",
    "jobs": "dsf.jobs",
    "plot": "dsf.report.plot",
    "testing": "dsf.testing",
}

__all__ = ["__version__", *_HOME, *_SUBPACKAGES]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _SUBPACKAGES:
        return import_module(_SUBPACKAGES[name])
    raise AttributeError(f"module 'dsf' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from dsf import certificates as certify
    from dsf import jobs, measures, mixers, testing
    from dsf.attribution import attribute, stack
    from dsf.certificates import Certificate, Verdict
    from dsf.cli.doctor import show_versions
    from dsf.evaluate import (
        attention_map,
        chunkwise,
        convolution,
        recurrent,
        respond,
        row_blocks,
        scan,
        scans,
        step,
    )
    from dsf.evaluate.realisation import realise, reduce
    from dsf.inspection import Adapter, Inspection, inspect, probe, support
    from dsf.interventions import edits, intervene, reduce_states, sweep
    from dsf.mixers import ingredients
    from dsf.report import exchange, playground, plot, view, write_report
    from dsf.report.comparison import compare
    from dsf.report.plot import report_state
    from dsf.systems import algebra, transition
    from dsf.systems.composite import ExplicitMap, SystemSum
    from dsf.systems.system import System
    from dsf.testing import check_adapter
