"""Text and tables on a terminal; nothing that comes from a model is ever taken for markup."""

import errno
import os
import sys
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dsf.report.escaping import escaped

UNBOUNDED = 200
LONGEST_CELL = 400
NARROWEST_PROSE = 40


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
        made.width = UNBOUNDED
    return made


def print_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "", prose: bool = False
) -> None:
    """A table where it fits, otherwise one line for every cell.

    Args:
        prose: the last column holds sentences, which may run over several lines.
    """
    screen = console()
    cells = [[escaped(cell, most=LONGEST_CELL) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    if prose:
        widths[-1] = min(widths[-1], NARROWEST_PROSE)
    if sum(widths) + 2 * len(widths) > screen.width:
        _print_lines(screen, heads, cells)
        return
    table = Table(box=SIMPLE_HEAD, title=title or None, pad_edge=False)
    for head in heads:
        table.add_column(head, no_wrap=not (prose and head == heads[-1]))
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    screen.print(table)


def _print_lines(screen: Console, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in rows:
        screen.print(Text(row[0]), style="bold")
        for head, cell in zip(heads[1:], row[1:], strict=True):
            screen.print(Text(f"  {head}: {cell}"))
