"""Reads the token mixers of a model from one run and checks each against the layer's output."""

from typing import TYPE_CHECKING

from dsf.runtime.first_use import finding

__all__ = [
    "Adapter",
    "Forecast",
    "InspectedLayer",
    "Inspection",
    "InspectionError",
    "InspectionMemoryError",
    "NonFiniteWeightsError",
    "NothingCapturedError",
    "Port",
    "Probe",
    "ReconstructionError",
    "RoundingWarning",
    "Support",
    "Unsupported",
    "attentions",
    "inspect",
    "load",
    "memory_forecast",
    "probe",
    "stored_layer",
    "support",
]

__getattr__ = finding(__name__)

if TYPE_CHECKING:
    from dsf.inspection.adapter import Adapter
    from dsf.inspection.entry import inspect, memory_forecast, probe, stored_layer
    from dsf.inspection.errors import (
        InspectionError,
        InspectionMemoryError,
        NonFiniteWeightsError,
        NothingCapturedError,
        ReconstructionError,
        RoundingWarning,
    )
    from dsf.inspection.probing.driven import Port
    from dsf.inspection.probing.probe import Probe
    from dsf.inspection.results.layers import InspectedLayer, Inspection, Unsupported
    from dsf.inspection.results.memory import Forecast
    from dsf.inspection.results.saving import load
    from dsf.inspection.seen_attentions import attentions
    from dsf.inspection.support_table import Support, support
