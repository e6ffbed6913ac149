"""Numbers of a layer that the page and the picture of one inspection both need, computed once."""

from collections.abc import Callable, Hashable
from typing import TypeVar
from weakref import WeakKeyDictionary

from dsf.inspection import InspectedLayer

Found = TypeVar("Found")
_KNOWN: WeakKeyDictionary[InspectedLayer, dict[Hashable, object]] = WeakKeyDictionary()


def remembered(layer: InspectedLayer, what: Hashable, compute: Callable[[], Found]) -> Found:
    """What ``compute`` returned for this layer before, as long as the layer lives.

    Args:
        what: the name of the numbers; two computations of one name are the same.
    """
    known = _KNOWN.setdefault(layer, {})
    if what not in known:
        known[what] = compute()
    return known[what]  # type: ignore[return-value]
