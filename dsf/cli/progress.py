"""What a command is doing, on standard error while a person watches: stage, share, time left.

The display begins before torch is imported, which itself takes seconds, and is gone when the answer
is printed. There is one in a process, as there is one terminal.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dsf.cli.terminal import console
from dsf.report.escaping import escaped

_BARS: ContextVar[Progress | None] = ContextVar("bars", default=None)


class UnwrittenError(Exception):
    """Standard output took no line; ``reason`` is what the system said."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


@contextmanager
def watching(*, shown: bool) -> Iterator[None]:
    """Show stages inside the block, if standard error is a terminal."""
    screen = console(stderr=True)
    if not (shown and screen.is_terminal):
        yield
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bars = Progress(*columns, console=screen, transient=True, redirect_stdout=False)
    with bars:
        token = _BARS.set(bars)
        stage("starting")
        try:
            yield
        finally:
            _BARS.reset(token)


def stage(label: str) -> None:
    """Begin a stage of unknown length; the one before is done."""
    bars = _BARS.get()
    if bars is not None:
        for task in bars.task_ids:
            bars.remove_task(task)
        bars.add_task(escaped(label), total=None)


def part(label: str, done: int | float, every: int) -> None:
    """Show that the stage is at part ``done`` of ``every``, such as a layer."""
    bars = _BARS.get()
    if bars is not None and every:
        for task in bars.task_ids:
            bars.update(task, total=every, completed=done, description=escaped(label))


@contextmanager
def progress(label: str, *, shown: bool) -> Iterator[Callable[[float], None]]:
    """A stage, and a function that shows which share of it is done, from 0 to 1."""
    if not shown:
        yield lambda _: None
        return
    stage(label)
    yield lambda share: part(label, share, 1)


def say(line: str) -> None:
    """Print a line to standard output before the answer.

    Raises:
        UnwrittenError: if nobody reads it, or there is no room for it.
    """
    bars = _BARS.get()
    try:
        if bars is not None:  # standard output may be the same terminal
            bars.stop()
        print(line, flush=True)
        if bars is not None:
            bars.start()
    except OSError as error:
        raise UnwrittenError(error) from error
