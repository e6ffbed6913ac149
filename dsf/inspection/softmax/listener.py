"""Listens to all torch functions of a run for softmax attention, fused or written out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from dsf.inspection.capture.calls import Call
from dsf.inspection.capture.module_stack import ModuleStack
from dsf.inspection.softmax.follower import Follower
from dsf.inspection.softmax.fused import FusedCalls


@contextmanager
def recording_softmax(where: ModuleStack, calls: list[Call]) -> Iterator[None]:
    """Append to ``calls`` every fused attention, and every softmax between two products.

    Not those in modules that are claimed.
    """
    with where.followed(), _Listener(where, calls):
        yield


class _Listener(TorchFunctionMode):
    """One mode for both, since every mode that is active costs time at every call of torch."""

    def __init__(self, where: ModuleStack, calls: list[Call]):
        super().__init__()
        self._where = where
        self._fused, self._follower = FusedCalls(where, calls), Follower(where, calls)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if self._where.is_claimed():
            return output
        if func is scaled_dot_product_attention:
            output = self._fused.recorded(args, kwargs, output)
        return self._follower.heard(func, args, kwargs, output)
