"""Small systems from maps and from large systems."""

from dsf.realisation.shrinking import Reduction, realise, reduce

__all__ = ["Reduction", "realise", "reduce"]
