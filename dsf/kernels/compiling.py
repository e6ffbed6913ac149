"""How every loop is compiled: without the lock, on one thread, once for this machine."""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

Loop = TypeVar("Loop", bound=Callable[..., Any])

logger = logging.getLogger(__name__)


def kernel(*, reorders: bool = False) -> Callable[[Loop], Loop]:
    """Compile a loop when it is first called, and keep the machine code on disk.

    Products and sums may be fused; ``reorders`` also lets long sums be added up in another order,
    which is what makes them fast. Neither gives up infinities, nan or signs. Never in parallel:
    the threads of the compiler beside those of torch slow down every operation of torch.
    """

    def compiled(loop: Loop) -> Loop:
        import numba

        _announce_compiling()
        flags = {"contract", "reassoc"} if reorders else {"contract"}
        options = {"nogil": True, "error_model": "numpy", "fastmath": flags}
        try:
            return numba.njit(cache=True, **options)(loop)
        except RuntimeError:  # no folder that can be written to
            return numba.njit(**options)(loop)

    return compiled


@cache
def _announce_compiling() -> None:
    """Say once in a process that the first call takes seconds, before it takes them."""
    from numba.core.event import Listener, register

    class Announcer(Listener):  # type: ignore[misc]
        said = False

        def on_start(self, event: Any) -> None:
            origin = event.data["dispatcher"].py_func.__module__ or ""
            if not self.said and origin.startswith(__package__):
                self.said = True
                logger.warning(
                    "dsf compiles loops for this processor, a few seconds, once on this machine; "
                    "DSF_KERNELS=0 does without."
                )

        def on_end(self, event: Any) -> None:
            pass

    register("numba:compile", Announcer())
