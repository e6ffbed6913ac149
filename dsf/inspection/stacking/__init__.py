"""A model across its layers: what a token adds to the stream some blocks later."""

from dsf.inspection.stacking.building import stack
from dsf.inspection.stacking.stacked import Stack

__all__ = ["Stack", "stack"]
