"""``stack``: what each token adds to the residual stream some blocks later, across the layers."""

from dsf.network.entry import stack
from dsf.network.stacked import Stack

__all__ = ["Stack", "stack"]
