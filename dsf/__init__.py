"""Read the token mixers of trained models as linear time-varying systems.

The public names, listed by hand and found on first use, so that ``import dsf`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dsf.distribution import VERSION

__version__ = VERSION

_HOME = {
    "System": "dsf.system",
    "ExplicitMap": "dsf.composite",
    "SystemSum": "dsf.composite",
    "respond": "dsf.evaluate",
    "attention_map": "dsf.evaluate",
    "row_blocks": "dsf.evaluate",
    "recurrent": "dsf.evaluate",
    "scan": "dsf.evaluate",
    "chunkwise": "dsf.evaluate",
    "convolution": "dsf.evaluate",
    "step": "dsf.evaluate",
    "realise": "dsf.realisation",
    "reduce": "dsf.realisation",
    "Certificate": "dsf.certificates",
    "Verdict": "dsf.certificates",
    "inspect": "dsf.inspection",
    "probe": "dsf.inspection",
    "support": "dsf.inspection",
    "check_adapter": "dsf.properties",
    "compare": "dsf.properties",
    "Adapter": "dsf.inspection",
    "Inspection": "dsf.inspection",
    "stack": "dsf.network",
    "intervene": "dsf.network",
    "sweep": "dsf.network",
    "reduce_states": "dsf.network",
    "write_report": "dsf.report",
    "report_state": "dsf.plot",
    "view": "dsf.report",
    "playground": "dsf.report",
    "show_versions": "dsf.cli.machine",
}
_SUBPACKAGES = {
    "mixers": "dsf.mixers",
    "layers": "dsf.layers",
    "algebra": "dsf.algebra",
    "transition": "dsf.transition",
    "ingredients": "dsf.ingredients",
    "measures": "dsf.measures",
    "exchange": "dsf.exchange",
    "scans": "dsf.scans",
    "certify": "dsf.certificates",
    "edits": "dsf.edits",
    "claims": "dsf.claims",
    "jobs": "dsf.jobs",
    "plot": "dsf.plot",
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
    from dsf import (
        algebra,
        claims,
        edits,
        exchange,
        ingredients,
        jobs,
        measures,
        mixers,
        plot,
        scans,
        testing,
        transition,
    )
    from dsf import certificates as certify
    from dsf.certificates import Certificate, Verdict
    from dsf.cli.machine import show_versions
    from dsf.composite import ExplicitMap, SystemSum
    from dsf.evaluate import (
        attention_map,
        chunkwise,
        convolution,
        recurrent,
        respond,
        row_blocks,
        scan,
        step,
    )
    from dsf.inspection import Adapter, Inspection, inspect, probe, support
    from dsf.network import intervene, reduce_states, stack, sweep
    from dsf.plot import report_state
    from dsf.properties import check_adapter, compare
    from dsf.realisation import realise, reduce
    from dsf.report import playground, view, write_report
    from dsf.system import System
