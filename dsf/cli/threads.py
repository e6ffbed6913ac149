"""How many threads a command computes with: as many as were asked for, or as its work is worth."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Annotated

import typer

VARIABLE = "OMP_NUM_THREADS"
MAX_THREADS = 1024
"""More than any machine has cores; of 20,000 the system starts none, and torch crashes."""
SMALL_WORK = 5 * 10**9
"""Parameters of the model times tokens, up to which one thread is the default.

By ``benchmarks/command_threads.py`` on two cores: up to here ``dsf inspect`` takes at most 1.1
times as long on one thread as on both, since most of it is drawing; with three times the work it
takes 1.3 times as long. While other processes keep both cores busy, two threads wait for each
other and take up to 40 times as long as one.
"""


def _thread_count(text: str) -> int:
    """Parse ``--threads``, or the first of the environment's list for nested levels."""
    word = str(text).partition(",")[0].strip()
    count = int(word) if word.isascii() and word.isdecimal() and len(word) < 9 else 0
    if not 1 <= count <= MAX_THREADS:
        raise typer.BadParameter(
            f"expected a whole number from 1 to {MAX_THREADS}, got {text!r}. This machine has "
            f"{os.cpu_count()} cores, and more threads than that wait for each other."
        )
    return count


Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        parser=_thread_count,
        envvar=VARIABLE,
        help="Threads to compute with. By default one, and all cores for a large model.",
    ),
]


@dataclass(frozen=True)
class ThreadCount:
    """The threads of a command that runs.

    Attributes:
        asked: what the user wants, by ``--threads`` or by the environment.
        every: what torch takes by itself.
    """

    asked: int | None
    every: int

    def suit(self, work: int) -> None:
        """Take every thread for large work, unless the user asked for a number.

        Args:
            work: parameters times tokens.
        """
        from dsf.runtime.threads import compute_with

        if self.asked is None:
            compute_with(self.every if work > SMALL_WORK else 1)

    def __str__(self) -> str:
        cores = f"{os.cpu_count()} cores"
        if self.asked is not None:
            return f"{self.asked}, as asked for, on {cores}"
        return f"1, for a large model {self.every}, on {cores}"


@contextmanager
def computing(asked: int | None) -> Iterator[ThreadCount]:
    """Run on as many threads as asked for, else on one; afterwards on as many as before."""
    with held_back():
        from dsf.runtime.threads import limited_to

    count = ThreadCount(asked, every=threads_in_use())
    with limited_to(asked or 1):
        yield count


def threads_in_use() -> int:
    """The threads that torch, and the compiled loops with it, compute with now."""
    import torch

    return torch.get_num_threads()


@contextmanager
def held_back() -> Iterator[None]:
    """Let an interrupt in the ``with`` block take effect at its end.

    Inside the import of torch it may end the process with a dump.
    """
    before = signal.getsignal(signal.SIGINT)
    received: list[tuple[int, FrameType | None]] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append((number, frame))

    in_main = threading.current_thread() is threading.main_thread()  # others set no handler
    if not callable(before) or not in_main:
        yield
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if received:
        before(*received[0])
