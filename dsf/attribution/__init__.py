"""How much each token, layer and edge of a run contributed to a number."""

from dsf.attribution.attribution import Attribution
from dsf.attribution.shares import Agreement, Paths
from dsf.attribution.stacked import Stack, attribute, stack

__all__ = ["Agreement", "Attribution", "Paths", "Stack", "attribute", "stack"]
