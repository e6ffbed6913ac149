"""What a person sees: tables, progress, a page in a browser. Text is never taken for markup."""

import errno
import math
import os
import sys
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dsf.report.escaping import escaped

UNBOUNDED_WIDTH = 200
MAX_CELL_LETTERS = 400


class _Screen(Console):
    """A console that tells its caller when nobody reads any more; rich ends the process with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def console(*, stderr: bool = False) -> Console:
    """A console that reads no markup; wide where there is no terminal to set a width.

    Whether there is one is asked of the system: FORCE_COLOR, which many build servers set, would
    fill their logs with bars.
    """
    stream = sys.stderr if stderr else sys.stdout
    made = _Screen(
        stderr=stderr,
        markup=False,
        emoji=False,
        highlight=False,
        force_terminal=stream is not None and stream.isatty(),
    )
    if not made.is_terminal:
        made.width = UNBOUNDED_WIDTH
    return made


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table where it fits, otherwise one line for every cell."""
    screen = console()
    cells = [[escaped(cell, most=MAX_CELL_LETTERS) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    if sum(widths) + 2 * len(widths) > screen.width:
        for row in cells:
            screen.print(Text(row[0]), style="bold")
            for head, cell in zip(heads[1:], row[1:], strict=True):
                screen.print(Text(f"  {head}: {cell}"))
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(head, no_wrap=True)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    screen.print(table)


LEVELS = 9
"""Steps of a heat map between nothing and the largest magnitude."""


def print_heat_map(
    rows: Sequence[str], columns: Sequence[str], numbers: Sequence[Sequence[float]]
) -> None:
    """Print the sign and the size of every number, from 1 to 9; red raises and blue lowers."""
    screen = console()
    most = max((abs(each) for row in numbers for each in row if math.isfinite(each)), default=0.0)
    room = max(map(len, rows), default=0)
    across = max((screen.width - room) // 3, 1)
    for start in range(0, len(columns), across):
        names = columns[start : start + across]
        for at in range(max(map(len, names))):  # read downwards
            letters = "".join(f"{name.rjust(max(map(len, names)))[at]:>3}" for name in names)
            screen.print(Text(" " * room + letters))
        for name, row in zip(rows, numbers, strict=True):
            line = Text(escaped(name).rjust(room))
            for each in row[start : start + across]:
                line.append_text(_cell(each, most, coloured=screen.is_terminal))
            screen.print(line)


def _cell(number: float, most: float, *, coloured: bool) -> Text:
    if not math.isfinite(number):
        return Text("  ?")
    level = round(LEVELS * abs(number) / most) if most else 0
    word = f" {'+' if number > 0 else '-'}{level}" if level else "  ."
    if not coloured or not level:
        return Text(word)
    pale = 255 - 20 * level
    red = number > 0
    style = f"black on rgb({255 if red else pale},{pale},{pale if red else 255})"
    return Text(word, style=style)


# Progress: what a command is doing, on standard error while a person watches. The display begins
# before torch is imported, which itself takes seconds, and is gone when the answer is printed.


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


def progress(label: str) -> Callable[[float], None]:
    """Begin a stage; the function that is returned shows which share of it is done, from 0 to 1."""
    stage(label)
    return lambda share: part(label, share, 1)


def say(line: str) -> None:
    """Print a line to standard output before the answer."""
    bars = _BARS.get()
    try:
        if bars is not None:  # standard output may be the same terminal
            bars.stop()
        print(line, flush=True)
        if bars is not None:
            bars.start()
    except OSError as error:
        raise UnwrittenError(error) from error


IN_A_TERMINAL = ("www-browser", "links", "elinks", "lynx", "w3m")


def open_page(path: Path) -> dict[str, str | bool]:
    """Hand a page to the user's browser, if there is one with windows, or one that BROWSER names.

    Whether a window appears is not known: browsers start in the background.
    """
    name, reason = "", ""
    page = path.resolve().as_uri()
    try:
        if not (has_display() or os.environ.get("BROWSER")):
            reason = "there is no display here"
        else:
            browser = webbrowser.get()
            name = str(getattr(browser, "name", type(browser).__name__))
            if Path(name).name in IN_A_TERMINAL:
                reason = f"the only browser here, {name}, has no windows"
            else:
                with _standard_output_to_errors():
                    reason = "" if browser.open(page) else f"{name} could not be started"
    except (webbrowser.Error, OSError):
        reason = "there is no browser here"
    words = f"not opened: {reason}. Open {page} in a browser."
    if not reason:
        words = f"handed to {name}: {page} (no window? Open the address yourself.)"
    return {"opened": not reason, "page": page, "reason": reason, "words": words}


@contextmanager
def _standard_output_to_errors() -> Iterator[None]:
    """What a browser prints is not part of the answer, which may be JSON."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def has_display() -> bool:
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
