"""What every command does with its answer: JSON or text, an exit code, errors in words."""

import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from dsf.cli.threads import ThreadCount, computing, threads_in_use

WELL = 0
FAILED = 1
"""A layer was not reproduced."""
USAGE = 2
"""A wrong call, or input that was refused."""
LIMIT = 3
"""A limit was hit, or something is missing on this machine."""
INTERRUPTED = 130
BROKEN_PIPE = 141


def code_of(error: Exception) -> int | None:
    """The exit code of an error that a person can act on; None for a fault of the program."""
    from dsf.evaluate import MapTooLarge
    from dsf.inspection import InspectionError, ReconstructionError
    from dsf.loading import LoadError

    if isinstance(error, ReconstructionError):
        return FAILED
    if isinstance(error, (InspectionError, LoadError, OSError, ValueError)):
        return USAGE
    if isinstance(error, (MapTooLarge, MemoryError)):
        return LIMIT
    return None


SCHEMA_VERSION = 1

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the traceback of an error.")]


@dataclass
class Answer:
    """What a command found.

    Attributes:
        facts: for ``--json``; finite numbers and text only.
        show: prints it for a person.
        code: the exit code.
    """

    facts: dict[str, Any]
    show: Callable[[], None]
    code: int = field(default=WELL)


def give(
    command: str,
    work: Callable[[ThreadCount], Answer],
    *,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    check: Callable[[], object] | None = None,
) -> None:
    """Do the work, print its answer, leave with its code.

    Args:
        check: looks at the arguments, before anything heavy is imported. What it complains about
            shows the user's words as ``repr`` does.

    Raises:
        typer.Exit: with the exit code, always.
    """
    try:
        if check is not None:
            check()
    except (OSError, ValueError) as error:
        _tell(command, type(error).__name__, str(error), USAGE, as_json=as_json)
        raise typer.Exit(USAGE) from None
    try:
        with computing(threads) as count:
            answer = work(count)
            used = threads_in_use()
    except Exception as error:
        code = code_of(error)
        if code is None:
            raise
        _complain(command, error, code, as_json=as_json, verbose=verbose)
        raise typer.Exit(code) from None
    try:
        if as_json:
            _print_json(command, answer.code, {"threads": used, **answer.facts})
        elif not quiet:
            answer.show()
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read this is gone; the interpreter must not complain about it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(BROKEN_PIPE) from None
    raise typer.Exit(answer.code)


def _complain(command: str, error: Exception, code: int, *, as_json: bool, verbose: bool) -> None:
    from dsf.report.escaping import escaped

    if verbose:
        traceback.print_exception(error)
    kind, words = type(error).__name__, escaped(str(error), most=2000) or "no further word"
    _tell(command, kind, words, code, as_json=as_json)


def _tell(command: str, kind: str, words: str, code: int, *, as_json: bool) -> None:
    if as_json:
        _print_json(command, code, {"error": {"kind": kind, "message": words}})
    else:
        print(f"dsf {command}: {words}", file=sys.stderr)


def _print_json(command: str, code: int, facts: dict[str, Any]) -> None:
    whole = {"schema_version": SCHEMA_VERSION, "command": command, "exit_code": code, **facts}
    print(json.dumps(whole, indent=2, allow_nan=False))
