"""What every command does with its answer: JSON or text, an exit code, errors in words."""

import json
import math
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from dsf.cli.errors import (
    BROKEN_PIPE,
    FAILED,
    FAULT,
    INTERRUPTED,
    LIMIT,
    USAGE,
    WELL,
    code_of,
    worded,
)
from dsf.cli.progress import UnwrittenError, watching
from dsf.cli.threads import ThreadCount, check_environment, computing, threads_in_use
from dsf.report.escaping import escaped

__all__ = ["FAILED", "LIMIT", "USAGE", "WELL", "Answer", "AsJson", "Quiet", "Verbose", "give"]

SCHEMA_VERSION = 1
LONGEST = 2000

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
        check: looks at everything that can be told without a model, before anything heavy is
            imported.

    Raises:
        typer.Exit: with the exit code, always.
    """
    try:
        if threads is None:
            check_environment()
        if check is not None:
            check()
    except (OSError, ValueError) as error:
        code = code_of(error) if isinstance(error, OSError) else USAGE
        complain(command, error, code or USAGE, as_json=as_json, verbose=verbose)
        raise typer.Exit(code or USAGE) from None
    try:
        with watching(shown=not (as_json or quiet)), computing(threads) as count:
            answer = work(count)
            used = threads_in_use()
    except UnwrittenError as error:
        raise typer.Exit(unwritten(command, error.reason)) from None
    except Exception as error:
        code = code_of(error)
        if code is None:
            raise
        complain(command, error, code, as_json=as_json, verbose=verbose)
        raise typer.Exit(code) from None
    try:
        if as_json:
            print_json(command, answer.code, {"threads": used, **answer.facts})
        elif not quiet:
            answer.show()
        sys.stdout.flush()
    except OSError as error:
        raise typer.Exit(unwritten(command, error)) from None
    raise typer.Exit(answer.code)


def unwritten(command: str, error: OSError) -> int:
    """The exit code where standard output took no answer; the reason is told, where there is one.

    From here on it leads nowhere, so that the interpreter does not complain about it either.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    reason = error.strerror or str(error)
    print(f"{_title(command)}: the answer could not be written: {reason}.", file=sys.stderr)
    return LIMIT


def complain(
    command: str, error: BaseException, code: int, *, as_json: bool, verbose: bool = False
) -> None:
    """Tell an error: in a sentence, or as the one JSON object."""
    if verbose or code == FAULT:
        traceback.print_exception(error)
    kind = type(error).__name__
    words = escaped(worded(error), most=LONGEST) or "no further word"
    if code == FAULT:
        words = (
            f"a fault of dsf itself, not of your call: {kind}: {words} Please report it, with what "
            'stands above and the output of "dsf doctor --json".'
        )
    tell(command, kind, words, code, as_json=as_json)


def tell(command: str, kind: str, words: str, code: int, *, as_json: bool) -> None:
    """Print why there is no answer."""
    if as_json:
        print_json(command, code, {"error": {"kind": kind, "message": words}})
    else:
        once = words.removeprefix(f"{command}: ")  # some errors begin with the function's name
        with suppress(OSError):  # a log that is full does not change the exit code
            print(f"{_title(command)}: {once}", file=sys.stderr, flush=True)


def interrupted(command: str, *, as_json: bool) -> None:
    """Say that a person stopped the command."""
    words = "interrupted. Files that were finished are whole and stay."
    tell(command, "KeyboardInterrupt", words, INTERRUPTED, as_json=as_json)


def _title(command: str) -> str:
    return f"dsf {command}".rstrip()


def print_json(command: str, code: int, facts: dict[str, Any]) -> None:
    """Print the one object of ``--json``."""
    whole = {"schema_version": SCHEMA_VERSION, "command": command, "exit_code": code, **facts}
    print(json.dumps(_finite(whole), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    """The same with null for numbers that JSON has no form for."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
