"""Forward passes that did the same: modules of one kind, in which the same operations ran.

In a deep model most modules differ by their weights alone. What tokens meet in them is then the
same, so it is asked of some of them by repeating these, and the others are taken to do likewise.
"""

from array import array
from bisect import bisect_left
from collections.abc import Hashable, Iterable, Mapping, Sequence
from weakref import ref

import torch
from torch import Tensor, nn

from dsf.inspection.capture.calls import Invocation, Through
from dsf.inspection.causal.done import Done
from dsf.inspection.causal.operations import Meeting, Way

HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class Steps:
    """The operations of a run in order: the time of each, and what it did, but for numbers.

    A tensor that none of them put out, and that is no weight, is foreign: it may have been computed
    on another thread or outside of torch, from tokens, and nothing of that was seen.
    """

    def __init__(self) -> None:
        self._times, self._kinds = array("q"), array("q")  # of some models there are millions
        self._foreign = array("q")
        self._seen: dict[int, ref[Tensor]] = {}

    def know(self, tensors: Iterable[Tensor]) -> None:
        """Tell of tensors that are not foreign."""
        for one in tensors:
            self._seen[id(one)] = ref(one)

    def assign(self, tensor: Tensor, instead: Tensor) -> None:
        """Tell of a tensor that holds from now on what another one does."""
        self.know([tensor])
        if self._is_foreign(instead):
            del self._seen[id(tensor)]

    def hand_over(self, time: int, tensors: Iterable[Tensor]) -> None:
        """Tell of tensors that a module is called with: foreign to its caller at most."""
        for one in tensors:
            if self._is_foreign(one):
                self._foreign.append(time)
                self.know([one])

    def add(self, time: int, done: Done) -> None:
        """Note an operation: its function, the shapes of its tensors and its other arguments."""
        self._times.append(time)
        self._kinds.append(hash(done.kind))
        is_new = done.func is torch.ops.aten.lift_fresh.default  # numbers of the program itself
        if not is_new and any(map(self._is_foreign, done.given)):
            self._foreign.append(time)
        self.know(done.outs)

    def of(self, invocation: Invocation) -> bytes | None:
        """Those of one forward pass, as a key; None if a tensor in it was foreign."""
        began, ended = invocation.began, invocation.ended
        if bisect_left(self._foreign, began) < bisect_left(self._foreign, ended):
            return None
        first = bisect_left(self._times, began)
        return self._kinds[first : bisect_left(self._times, ended)].tobytes()

    def _is_foreign(self, tensor: Tensor) -> bool:
        seen = self._seen.get(id(tensor))
        return (seen is None or seen() is not tensor) and not isinstance(tensor, nn.Parameter)


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
    is_fused = all(meeting.way is Way.ATTENTION and meeting.is_known for meeting in meetings)
    if len(attentions) != 1 or not axes or not is_fused or _is_changed(one.module):
        return None
    ran = steps.of(one)
    if ran is None:
        return None
    parts = tuple(type(part) for part in one.module.modules())
    given = tuple(None if part is None else tuple(part.planes) for part in one.given)
    return parts, axes, given, ran


def _is_changed(module: nn.Module) -> bool:
    """Whether code of its own stands in for that of a module's class, or runs before or after."""
    return any(
        "forward" in vars(part) or any(getattr(part, name, None) for name in HOOKS)
        for part in module.modules()
    )
