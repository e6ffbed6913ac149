"""The compiler settings of all CPU loops: no interpreter lock, one thread, machine code cached."""

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

Loop = Callable[..., Any]

logger = logging.getLogger(__name__)


def kernel(*, reorders: bool = False, inlined: bool = False) -> Callable[[Loop], Any]:
    """Compile a loop when it is first called, and cache the machine code on disk.

    Products and sums may be fused; ``reorders`` also lets the compiler add long sums in another
    order, so that it can vectorise them. Infinities, nan and signs of zero stay correct in both
    cases. ``inlined`` is for parts of a vectorised loop, where a function call would be slow. Loops
    are never parallelised by the compiler: its threads would slow down every operation of torch.
    """

    def compiled(loop: Loop) -> Any:
        import numba

        _log_compiling()
        flags = {"contract", "reassoc"} if reorders else {"contract"}
        options = {"nogil": True, "error_model": "numpy", "fastmath": flags}
        options["forceinline"] = inlined
        made = numba.njit(**options)(loop)
        with suppress(RuntimeError):  # numba finds no writable folder for its cache
            made._cache = _source_cache()(loop)
        return made

    return compiled


@cache
def _source_cache() -> type:
    """A cache of machine code that is invalidated when any file of this folder changes.

    The cache of numba checks the file of a loop alone, and would go on using outdated code that
    was inlined from another file.
    """
    from numba.core.caching import FunctionCache

    class SourceCache(FunctionCache):  # type: ignore[misc]
        def _index_key(self, signature: Any, codegen: Any) -> tuple[Any, ...]:
            return (*super()._index_key(signature, codegen), source())

    return SourceCache


@cache
def source() -> str:
    """A hash of all files of this folder."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@cache
def _log_compiling() -> None:
    """Log one warning in a process before loops are compiled, which takes seconds."""
    from numba.core.event import Listener, register

    class CompilationLogger(Listener):  # type: ignore[misc]
        logged = False

        def on_start(self, event: Any) -> None:
            origin = event.data["dispatcher"].py_func.__module__ or ""
            if not self.logged and origin.startswith(__package__):
                self.logged = True
                logger.warning(
                    "dsf compiles loops for this processor, which takes a few seconds once on this "
                    "machine; DSF_KERNELS=0 turns compiled loops off."
                )

        def on_end(self, event: Any) -> None:
            pass

    register("numba:compile", CompilationLogger())
