"""A model across its layers: what each token adds, shares of a logit, and edited runs."""

from dsf.network.attribution import Attribution
from dsf.network.entry import stack
from dsf.network.intervention import Intervention, intervene
from dsf.network.paths import Paths
from dsf.network.stacked import Stack
from dsf.network.sweeps import sweep

__all__ = ["Attribution", "Intervention", "Paths", "Stack", "intervene", "stack", "sweep"]
