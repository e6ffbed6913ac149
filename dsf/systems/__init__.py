"""The system and its parts: transitions, coefficients, sums, solvers, compiled loops, algebra."""

from typing import TYPE_CHECKING

from dsf.runtime.first_use import finding

__all__ = ["ExplicitMap", "System", "SystemSum", "algebra", "transition"]

__getattr__ = finding(__name__)

if TYPE_CHECKING:
    from dsf.systems import algebra, transition
    from dsf.systems.composite import ExplicitMap, SystemSum
    from dsf.systems.system import System
