"""Systems whose state is a cache of all tokens: their map is the rows of C."""

from dsf.coefficient import TokenSlots
from dsf.composite import RowSource
from dsf.system import System


def kept_rows(system: System) -> RowSource | None:
    """The rows of the map, if the system keeps every token in a state of its own; else None."""
    if system.initial is not None or system.runs_backward:
        return None
    if isinstance(system.B, TokenSlots) and isinstance(system.C, RowSource):
        return system.C
    return None
