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
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dsf.report.escaping import escaped

Told = Callable[[float], None]
"""Is told the share that is done, from 0 to 1."""
STARTING = "starting"


def ignored(share: float) -> None:
    """What a stage that nobody watches is told."""
    del share


class Display:
    """Bars on standard error, the last of them in work."""

    def __init__(self, bars: Progress):
        self._bars = bars
        self._task: TaskID | None = None

    def begin(self, label: str) -> None:
        """Show a new stage; the one before is done."""
        self.end()
        self._task = self._bars.add_task(escaped(label), total=None)

    def tell(self, share: float, label: str = "") -> None:
        """Show how much of the stage is done, from 0 to 1, and what it is doing."""
        if self._task is not None:
            self._bars.update(self._task, total=1.0, completed=share)
            if label:
                self._bars.update(self._task, description=escaped(label))

    def end(self) -> None:
        """Take the stage away."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None

    def say(self, line: str) -> None:
        """Print a line to standard output, which may be the same terminal."""
        self._bars.stop()
        print(line, flush=True)
        self._bars.start()


_DISPLAY: ContextVar[Display | None] = ContextVar("display", default=None)


@contextmanager
def watching(*, shown: bool) -> Iterator[None]:
    """Inside, stages are shown, if standard error is a terminal."""
    from dsf.cli.terminal import console

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
    display = Display(bars)
    with bars:
        display.begin(STARTING)
        token = _DISPLAY.set(display)
        try:
            yield
        finally:
            _DISPLAY.reset(token)


def stage(label: str) -> None:
    """From now on the command does this, for an unknown time."""
    display = _DISPLAY.get()
    if display is not None:
        display.begin(label)


def part(label: str, done: int, every: int) -> None:
    """The stage is at its part ``done`` of ``every``, such as a layer."""
    display = _DISPLAY.get()
    if display is not None and every:
        display.tell(done / every, label)


class UnwrittenError(Exception):
    """Standard output took no line; ``reason`` is what the system said."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def say(line: str) -> None:
    """Print a line before the answer.

    Raises:
        UnwrittenError: if nobody reads it, or there is no room for it.
    """
    display = _DISPLAY.get()
    try:
        if display is None:
            print(line, flush=True)
        else:
            display.say(line)
    except OSError as error:
        raise UnwrittenError(error) from error


@contextmanager
def progress(label: str, *, shown: bool) -> Iterator[Told]:
    """A stage whose share is told."""
    display = _DISPLAY.get() if shown else None
    if display is None:
        yield ignored
        return
    display.begin(label)
    yield display.tell
