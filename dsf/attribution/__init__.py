"""A model across its layers: what each token, layer and edge contributes to one number."""

from dsf.attribution.attribution import Attribution
from dsf.attribution.entry import stack
from dsf.attribution.paths import Paths
from dsf.attribution.stacked import Stack

__all__ = ["Attribution", "Paths", "Stack", "stack"]
