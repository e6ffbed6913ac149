"""A model across its layers: what a token adds to the stream some blocks later."""

from dsf.network.entry import stack
from dsf.network.stacked import Stack

__all__ = ["Stack", "stack"]
