"""Reads the token mixers of a model from one run and checks each against the layer's output."""

from dsf.inspection.adapter import Adapter
from dsf.inspection.entry import inspect, memory_forecast, probe
from dsf.inspection.errors import (
    InspectionError,
    InspectionMemoryError,
    NonFiniteWeightsError,
    NothingCapturedError,
    ReconstructionError,
    RoundingWarning,
)
from dsf.inspection.piecewise import inspect_piecewise
from dsf.inspection.probing.ports import Port
from dsf.inspection.probing.probe import Probe
from dsf.inspection.results.layers import InspectedLayer, Inspection, Unsupported
from dsf.inspection.results.memory_forecast import Forecast
from dsf.inspection.stored_weights import stored_layer
from dsf.inspection.support_table import Support, support
from dsf.moved import forwarding

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
    "inspect",
    "inspect_piecewise",
    "memory_forecast",
    "probe",
    "stored_layer",
    "support",
]

__getattr__ = forwarding(__name__)
