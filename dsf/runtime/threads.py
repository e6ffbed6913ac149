"""Work on several threads, and how many of them torch computes with.

``torch.set_num_threads`` has an effect that lasts: from then on torch 2.13 never returns from a
factorisation of several matrices of 200 rows or more at once (``torch.linalg.solve``, ``inv``,
``det``, ``lu_factor``), since MKL starts threads inside of those of torch. So what runs in the
process of a user does not call it, but tells OpenMP how many threads one thread of work may have.
"""

import ctypes
import os
import re
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar, copy_context
from functools import cache
from itertools import pairwise
from threading import Lock
from typing import Any, TypeVar

import torch

MOST = 8
"""Maximum number of workers; the rest of torch's threads are divided among them."""

OPENMP = ("libgomp.so.1", "libomp.so", "libiomp5.so", "libomp.dylib", "libiomp5.dylib")
AHEAD = 2
"""Maximum number of pieces per worker that wait to be consumed."""

_AT_WORK: ContextVar[object] = ContextVar("at_work", default=None)

Piece = TypeVar("Piece")
Result = TypeVar("Result")


class WhileAny:
    """A change of the whole process that lasts while any thread is in a ``with`` block of it."""

    def __init__(self, change: Callable[[], AbstractContextManager[None]]):
        self._change, self._made = change, ExitStack()
        self._lock, self._blocks = Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if self._blocks == 0:
                self._made.enter_context(self._change())
            self._blocks += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._blocks -= 1
            if self._blocks == 0:
                self._made.close()


@contextmanager
def limited_to(count: int) -> Iterator[None]:
    """Run the block with ``count`` torch threads, and restore their number afterwards."""
    before, of_mkl = torch.get_num_threads(), _of_mkl()
    compute_with(count)
    try:
        yield
    finally:
        if not _take(before) or _of_mkl() != of_mkl:
            torch.set_num_threads(before)


def compute_with(count: int) -> None:
    if not _take(count):
        torch.set_num_threads(count)


def in_parallel(work: Callable[[Piece], None], pieces: Sequence[Piece]) -> None:
    """Call ``work`` on every piece, on as many threads as torch uses.

    For compiled loops, which release the interpreter lock and call nothing of torch. The threads
    are started anew in every call, since a pool would not survive a fork.
    """
    workers = min(torch.get_num_threads(), len(pieces))
    if workers <= 1:
        for piece in pieces:
            work(piece)
        return
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work, piece) for piece in pieces]:
            done.result()


def each_in_parallel(
    work: Callable[[Piece], Result], pieces: Sequence[Piece], *, most: int = MOST
) -> Generator[Result, None, None]:
    """Yield what ``work`` returns for each independent piece, in order, as soon as it is done.

    For work that calls torch: several threads gain little in short operations, and much in whole
    pieces of work. So the threads of torch are divided among the pieces that run at the same time,
    which takes a millisecond a call. Few results wait to be consumed. Where the number of OpenMP
    threads cannot be set, the pieces run one after the other.

    Args:
        most: maximum number of pieces that run at the same time.
    """
    every = torch.get_num_threads()
    workers = min(every, len(pieces), most)
    if workers <= 1 or not _can_be_shared():
        yield from map(work, pieces)
        return
    with_gradients = torch.is_grad_enabled()

    def run(piece: Piece) -> Result:
        _AT_WORK.set(object())
        with torch.set_grad_enabled(with_gradients):
            return work(piece)

    pool = ThreadPoolExecutor(workers, initializer=_take, initargs=(every // workers,))
    with ThreadPoolExecutor(1) as alone:
        is_set = alone.submit(_differs).result()
    waiting: deque[Future[Result]] = deque()
    try:
        for piece in pieces:
            waiting.append(pool.submit(copy_context().run, run, piece))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        if is_set:  # new threads of the user take the number that was set last
            torch.set_num_threads(every)


def _take(count: int) -> bool:
    """Let this thread compute with ``count`` threads; return whether it does now."""
    torch.get_num_threads()  # sets that of a new thread
    library = _openmp()
    if library is not None:
        library.omp_set_num_threads(count)
    if torch.get_num_threads() != count:
        return False
    if (_of_mkl() or 0) > count:  # a number set in torch before also holds for MKL
        torch.set_num_threads(count)
    return True


def _of_mkl() -> int | None:
    """Number of threads of MKL; None if torch has no MKL or the environment sets the number."""
    if "MKL_NUM_THREADS" in os.environ:
        return None
    found = re.search(r"mkl_get_max_threads\(\) : (\d+)", torch.__config__.parallel_info())
    return None if found is None else int(found[1])


@cache
def _openmp() -> Any | None:
    """The OpenMP library of torch, if it is loaded under one of the names in ``OPENMP``."""
    loaded = getattr(os, "RTLD_NOLOAD", 0) | getattr(os, "RTLD_NOW", 0)
    for name in OPENMP:
        try:
            library = ctypes.CDLL(name, mode=loaded)
        except OSError:
            continue
        if hasattr(library, "omp_set_num_threads"):
            return library
    return None


def _differs() -> bool:
    """Return whether torch's number of threads was set, so that MKL does not follow OpenMP."""
    library = _openmp() if torch.get_num_threads() > 1 else None
    if library is not None:
        library.omp_set_num_threads(1)
    return library is not None and (_of_mkl() or 0) > 1


@cache
def _can_be_shared() -> bool:
    """Return whether a thread can use another number of threads than torch, found by trial."""
    every = torch.get_num_threads()
    with ThreadPoolExecutor(1) as alone:
        return alone.submit(_take, every + 1).result()


def at_work() -> object:
    """Return the piece of ``each_in_parallel`` that this code works on; None outside of one.

    Code registered for all threads, such as hooks of all modules, recognises its own calls by it.
    """
    return _AT_WORK.get()


def shares(count: int, *, fewest: int = 1) -> list[slice]:
    """Divide ``count`` pieces into nearly equal slices, one for every thread.

    With few pieces, slices of about ``fewest`` for fewer threads.
    """
    parts = min(torch.get_num_threads(), -(-count // fewest))
    bounds = [k * count // parts for k in range(parts + 1)] if parts else []
    return [slice(*each) for each in pairwise(bounds)]
