"""Solvers of the state equation alone: (A, drive) -> states, from rest or from a state."""

from dsf.solve.initial_state import states_before
from dsf.solve.prefix import doubling
from dsf.solve.stepping import continued, recurrence

__all__ = ["continued", "doubling", "recurrence", "states_before"]
