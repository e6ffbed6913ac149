"""Solvers of the state equation h_t = A_t h_{t-1} + drive_t: (A, drive, h_0) -> states."""

from dsf.systems.solve.initial_state import states_before
from dsf.systems.solve.prefix import doubling
from dsf.systems.solve.stepping import continued, recurrence

__all__ = ["continued", "doubling", "recurrence", "states_before"]
