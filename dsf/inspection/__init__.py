"""Reads the token mixers of a model from one run and checks each against the layer's output."""

from dsf.inspection.adapter import Adapter
from dsf.inspection.entry import inspect, probe
from dsf.inspection.errors import (
    InspectionError,
    NonFiniteWeightsError,
    NothingCapturedError,
    ReconstructionError,
    RoundingWarning,
)
from dsf.inspection.piecewise import inspect_piecewise
from dsf.inspection.probing.ports import Port
from dsf.inspection.probing.probe import Probe
from dsf.inspection.results.layers import InspectedLayer, Inspection, Unsupported
from dsf.inspection.support_table import Support, support
from dsf.moved import forwarding

__all__ = [
    "Adapter",
    "InspectedLayer",
    "Inspection",
    "InspectionError",
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
    "probe",
    "support",
]

__getattr__ = forwarding(__name__)
