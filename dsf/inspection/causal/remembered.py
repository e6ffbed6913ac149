"""``Remembered``: what followed from coordinates before, so that equal layers are followed once."""

from collections.abc import Hashable, Iterable
from typing import Any

from dsf.inspection.causal.coordinates import Coordinates

MOST_BYTES = 2**25
MOST_ENTRIES = 4096


class Remembered:
    """Results by what they follow from; all are forgotten when they hold too much memory."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Any] = {}
        self._memory: set[int] = set()
        self._bytes = 0

    def of(self, key: Hashable) -> Any:
        """What followed before; None if nothing did."""
        return self._found.get(key)

    def add(self, key: Hashable, result: Any, held: Iterable[Coordinates | None]) -> None:
        """Remember ``result``, which keeps some coordinates in memory."""
        if self._bytes > MOST_BYTES or len(self._found) >= MOST_ENTRIES:
            self._found.clear()
            self._memory.clear()
            self._bytes = 0
        for one in held:
            for plane in () if one is None else (*one.planes.values(), *one.columns.values()):
                storage = plane.untyped_storage()
                if storage._cdata not in self._memory:
                    self._memory.add(storage._cdata)
                    self._bytes += storage.nbytes()
        self._found[key] = result
