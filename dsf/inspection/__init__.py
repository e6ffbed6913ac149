"""A model's layers become mixers, each compared with what the layer put out."""

from dsf.inspection.adapter import Adapter
from dsf.inspection.adapter_laws import check_adapter
from dsf.inspection.entry import inspect, probe
from dsf.inspection.errors import (
    InspectionError,
    NonFiniteWeightsError,
    NothingCapturedError,
    ReconstructionError,
)
from dsf.inspection.piecewise import inspect_piecewise
from dsf.inspection.ports import Port
from dsf.inspection.probing import Probe
from dsf.inspection.result import InspectedLayer, Inspection, Unsupported
from dsf.inspection.stacking import Stack, stack
from dsf.inspection.supporting import Support, support

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
    "Stack",
    "Support",
    "Unsupported",
    "check_adapter",
    "inspect",
    "inspect_piecewise",
    "probe",
    "stack",
    "support",
]
