"""How every loop is compiled: without the lock, on one thread, once for this machine."""

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

Loop = TypeVar("Loop", bound=Callable[..., Any])

logger = logging.getLogger(__name__)


def kernel(*, reorders: bool = False, inlined: bool = False) -> Callable[[Loop], Loop]:
    """Compile a loop when it is first called, and keep the machine code on disk.

    Products and sums may be fused; ``reorders`` also lets long sums be added up in another order,
    which is what makes them fast. Neither gives up infinities, nan or signs. ``inlined`` is for
    parts of a loop that goes by vectors, which no call may interrupt. Never in parallel: the
    threads of the compiler beside those of torch slow down every operation of torch.
    """

    def compiled(loop: Loop) -> Loop:
        import numba

        _announce_compiling()
        flags = {"contract", "reassoc"} if reorders else {"contract"}
        options = {"nogil": True, "error_model": "numpy", "fastmath": flags}
        options["forceinline"] = inlined
        made = numba.njit(**options)(loop)
        with suppress(RuntimeError):  # no folder that can be written to
            made._cache = _kept_by_source()(loop)
        return made

    return compiled


@cache
def _kept_by_source() -> type:
    """A cache of machine code that forgets a loop when any file of loops changes.

    The compiler looks at the file of a loop alone, and goes on using what a loop had inlined from
    another file after that has changed.
    """
    from numba.core.caching import FunctionCache

    class Kept(FunctionCache):  # type: ignore[misc]
        def _index_key(self, signature: Any, codegen: Any) -> tuple[Any, ...]:
            return (*super()._index_key(signature, codegen), source())

    return Kept


@cache
def source() -> str:
    """A hash of all files of loops."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


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
