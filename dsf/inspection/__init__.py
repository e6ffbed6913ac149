"""A model's layers become mixers, each compared with what the layer put out."""

from dsf.inspection.entry import inspect
from dsf.inspection.errors import (
    InspectionError,
    NonFiniteWeightsError,
    NothingCapturedError,
    ReconstructionError,
)
from dsf.inspection.result import InspectedLayer, Inspection, Unsupported

__all__ = [
    "InspectedLayer",
    "Inspection",
    "InspectionError",
    "NonFiniteWeightsError",
    "NothingCapturedError",
    "ReconstructionError",
    "Unsupported",
    "inspect",
]
