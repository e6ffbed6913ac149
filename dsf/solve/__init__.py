"""Solvers of the state equation alone: (A, drive) -> states, from rest."""

from dsf.solve.prefix import doubling
from dsf.solve.stepping import recurrence

__all__ = ["doubling", "recurrence"]
