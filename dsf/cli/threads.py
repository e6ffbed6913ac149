"""How many threads a command computes with: as many as were asked for, or as its work is worth."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer

from dsf.cli.interrupts import held_back
from dsf.cli.typed_numbers import is_count

VARIABLE = "OMP_NUM_THREADS"
MOST = 1024
"""More threads than any machine has cores; of 20,000 the system starts none, and torch crashes."""
SMALL_WORK = 5 * 10**9
"""Parameters of the model times tokens, up to which one thread is the default.

By ``benchmarks/command_threads.py`` on two cores: up to here ``dsf inspect`` takes at most 1.1
times as long on one thread as on both, since most of it is drawing; with three times the work it
takes 1.3 times as long. Beside processes that keep both cores busy, two threads wait for each other
and take up to 40 times as long as one.
"""


def _number(text: str) -> int:
    """The value of ``--threads``.

    Raises:
        typer.BadParameter: if it is not a whole number from 1 to ``MOST``.
    """
    count = _counted(text)
    if count is None:
        raise typer.BadParameter(f"it must be a whole number of at least 1, but {text!r} came.")
    if count > MOST:
        raise typer.BadParameter(
            f"it must be at most {MOST}, but {text!r} came. This machine has {os.cpu_count()} "
            "cores, and more threads than that wait for each other."
        )
    return count


def _counted(text: str) -> int | None:
    return int(text) if is_count(text.strip()) and int(text) > 0 else None


Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        parser=_number,
        help=f"Threads to compute with, whatever {VARIABLE} says. By default one, and all cores "
        "for a large model.",
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
def computing(option: int | None) -> Iterator[ThreadCount]:
    """Run on as many threads as asked for, else on one; afterwards on as many as before.

    Args:
        option: the value of ``--threads``.

    Raises:
        ValueError: if the environment asks for a number that is none.
    """
    with held_back():
        from dsf.runtime.threads import limited_to

    asked = _from_environment() if option is None else option
    count = ThreadCount(asked, every=threads_in_use())
    with limited_to(asked or 1):
        yield count


def check_environment() -> None:
    """Raises ValueError if the environment asks for a number of threads that is none."""
    _from_environment()


def threads_in_use() -> int:
    """The threads that torch, and the compiled loops with it, compute with now."""
    import torch

    return torch.get_num_threads()


def _from_environment() -> int | None:
    """What ``OMP_NUM_THREADS`` says, of a list for nested levels the first; None if it is unset."""
    said = os.environ.get(VARIABLE, "").strip()
    if not said:
        return None
    count = _counted(said.partition(",")[0])
    if count is None:
        raise ValueError(
            f"{VARIABLE} must be a whole number of at least 1, but it is {said!r}. Set it to one, "
            "unset it, or give --threads."
        )
    if count > MOST:
        raise ValueError(
            f"{VARIABLE} must be at most {MOST}, but it is {said!r}. This machine has "
            f"{os.cpu_count()} cores: set it to that, unset it, or give --threads."
        )
    return count
