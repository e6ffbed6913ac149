"""Forward passes that did the same: modules of one kind, in which the same operations ran.

In a deep model most modules differ by their weights alone. What tokens meet in them is then the
same, so it is asked of some of them by repeating these, and the others are taken to do likewise.
"""

from array import array
from bisect import bisect_left
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dsf.inspection.capture.calls import Invocation, Through
from dsf.inspection.causal.operations import Meeting

ATTENTION = "attention"
"""How tokens meet in a fused attention, in words."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class Steps:
    """The operations of a run in order: the time of each, and what it did, but for numbers."""

    def __init__(self) -> None:
        self._times, self._kinds = array("q"), array("q")  # of some models there are millions

    def add(self, time: int, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Note an operation: its function, the shapes of its tensors and its other arguments."""
        self._times.append(time)
        self._kinds.append(hash((func, *map(_plain, args), *map(_plain, kwargs.items()))))

    def of(self, invocation: Invocation) -> bytes:
        """Those of one forward pass, as a key."""
        first = bisect_left(self._times, invocation.began)
        return self._kinds[first : bisect_left(self._times, invocation.ended)].tobytes()


def _plain(part: Any) -> Hashable:
    if isinstance(part, Tensor):
        return part.shape, part.dtype
    if isinstance(part, tuple | list):
        return tuple(map(_plain, part))
    return part if isinstance(part, Hashable) else id(part)


def chosen(
    invocations: Mapping[Invocation, Sequence[Meeting]], steps: Steps
) -> dict[Invocation, tuple[Invocation, ...]]:
    """For forward passes that did what others did, which of these are asked in their place.

    The first, the middle and the last of those that are alike; whatever is alike to fewer than
    three is not in it, nor is a pass in which tokens met otherwise than in one fused attention.

    Args:
        invocations: forward passes in which a token mixer was read, with where tokens met in each.
    """
    groups: dict[Hashable, list[Invocation]] = {}
    for one, meetings in invocations.items():
        kind = _kind(one, meetings, steps)
        if kind is not None:
            groups.setdefault(kind, []).append(one)
    found: dict[Invocation, tuple[Invocation, ...]] = {}
    for group in groups.values():
        asked = (group[0], group[len(group) // 2], group[-1])
        found |= {one: asked for one in group if one not in asked}
    return found


def _kind(one: Invocation, meetings: Sequence[Meeting], steps: Steps) -> Hashable | None:
    attentions = [call for call in one.calls if call.through is not Through.MODULE]
    axes = tuple(meeting.axis for meeting in meetings)
    is_fused = all(meeting.how == ATTENTION and meeting.is_known for meeting in meetings)
    if len(attentions) != 1 or not axes or not is_fused or _is_changed(one.module):
        return None
    parts = tuple(type(part) for part in one.module.modules())
    given = tuple(None if part is None else tuple(part.planes) for part in one.given)
    return parts, axes, given, steps.of(one)


def _is_changed(module: nn.Module) -> bool:
    """Whether code of its own stands in for that of a module's class, or runs before or after."""
    return any(
        "forward" in vars(part) or any(getattr(part, name, None) for name in HOOKS)
        for part in module.modules()
    )
