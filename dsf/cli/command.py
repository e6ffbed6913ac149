"""What all commands share: options, threads, one answer, one exit code, errors in words.

A command is a function of its options. It looks at everything that can be known without a model and
returns the work; only then is anything heavy imported. A parameter is annotated with its type and
its help text. One that is a dataclass stands for one option for each of its annotated fields, so
that commands share options by sharing dataclasses.
"""

import errno
import json
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from inspect import Parameter, Signature, signature
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from dsf.cli.options import option_of
from dsf.cli.terminal import UnwrittenError, open_page, watching
from dsf.report.escaping import escaped

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


@contextmanager
def held_back() -> Iterator[None]:
    """Let an interrupt take effect after the block; in the import of torch it may dump core."""
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


SCHEMA_VERSION = 1
MAX_MESSAGE_LETTERS = 2000

WELL = 0
FAILED = 1
USAGE = 2
LIMIT = 3
FAULT = 4
INTERRUPTED = 130
BROKEN_PIPE = 141
IN_WORDS = {
    WELL: "all well",
    FAILED: "a layer was not reproduced, a required property refuted, or a unit of a job failed",
    USAGE: "a wrong call, or input that was refused",
    LIMIT: "a limit was hit, something is missing on this machine, or nothing is known",
    FAULT: "a fault of dsf itself",
    INTERRUPTED: "interrupted",
    BROKEN_PIPE: "the output pipe was closed",
}
"""The meaning of every exit code, for ``--help`` and the page of wrong calls."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EFBIG}
_CURES = {
    errno.ENOSPC: "make room there, or write to another disk",
    errno.EDQUOT: "make room there, or write to another disk",
    errno.EACCES: "change its permissions, or give another path",
    errno.EPERM: "change its permissions, or give another path",
    errno.EROFS: "give a path on another disk",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of the path is a file; check it",
    errno.EISDIR: "give the path of a file",
    errno.EEXIST: "give another name, or remove what is there",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ELOOP: "remove the links that lead in a circle",
}


@dataclass(frozen=True)
class Run:
    """Settings of the work: threads asked for, all that torch has, whether a person watches."""

    asked: int | None
    every: int
    is_watched: bool

    def suit(self, work: int) -> None:
        """Take every thread for large work, parameters times tokens, unless a number was asked."""
        from dsf.runtime.threads import compute_with

        if self.asked is None:
            compute_with(self.every if work > SMALL_WORK else 1)

    @property
    def threads(self) -> str:
        """How many threads it computes with, in words."""
        cores = f"{os.cpu_count()} cores"
        if self.asked is not None:
            return f"{self.asked}, as asked for, on {cores}"
        return f"1, for a large model {self.every}, on {cores}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The result of a command."""

    facts: dict[str, Any]
    show: Callable[[], None]
    code: int = WELL
    notes: Mapping[str, str] = field(default_factory=dict)
    page: Path | None = None


Work = Callable[[Run], Answer]
Command = Callable[..., Work]


@dataclass(frozen=True, kw_only=True)
class Common:
    """The options of every command."""

    threads: Threads = None
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")] = False
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the traceback of an error.")
    ] = False


def callback(name: str, command: Command) -> Callable[..., None]:
    """Return the function that typer calls for a command."""
    parameters = list(signature(command).parameters.values())
    parameters.append(Parameter("common", Parameter.KEYWORD_ONLY, annotation=Common))
    options = [option for each in parameters for option in _options(each)]

    def call(**typed: Any) -> None:
        def of(each: Parameter) -> Any:
            if not is_dataclass(each.annotation):
                return typed[each.name]
            group: Any = each.annotation
            return group(**{option.name: typed[option.name] for option in _options(each)})

        common = of(parameters[-1])
        _run(name, lambda: command(**{each.name: of(each) for each in parameters[:-1]}), common)

    call.__doc__ = command.__doc__
    call.__signature__ = Signature(options)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in options}
    return call


def _options(parameter: Parameter) -> Iterator[Parameter]:
    kind = parameter.annotation
    if not is_dataclass(kind):
        yield _option(parameter.name, kind, parameter.default)
        return
    hints = get_type_hints(kind, include_extras=True)
    for each in fields(kind):
        if get_origin(hints[each.name]) is Annotated:
            default = Parameter.empty if each.default is MISSING else each.default
            yield _option(each.name, hints[each.name], default)


def _option(name: str, hint: Any, default: Any) -> Parameter:
    """A parameter as typer takes it, from its type and its help text or its option."""
    kind, said = get_args(hint)[:2]
    option = option_of(name, kind, said) if isinstance(said, str) else said
    return Parameter(
        name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )


def _run(name: str, checked: Callable[[], Work], common: Common) -> None:

    def refuse(error: Exception, code: int) -> typer.Exit:
        complain(name, error, code, as_json=common.as_json, verbose=common.verbose)
        return typer.Exit(code)

    try:
        work = checked()
    except OSError as error:
        raise refuse(error, code_of(error) or USAGE) from None
    except ValueError as error:
        raise refuse(error, USAGE) from None
    is_watched = not (common.as_json or common.quiet)
    try:
        with watching(shown=is_watched):
            with held_back():
                import torch

                from dsf.runtime.threads import limited_to
            every = torch.get_num_threads()  # and the compiled loops with it
            with limited_to(common.threads or 1):
                answer = work(Run(common.threads, every, is_watched))
                used = torch.get_num_threads()
    except UnwrittenError as error:
        raise typer.Exit(unwritten(name, error.reason)) from None
    except Exception as error:
        code = code_of(error)
        if code is None:
            raise
        raise refuse(error, code) from None
    try:
        _print(name, answer, used, common)
        sys.stdout.flush()
    except OSError as error:
        raise typer.Exit(unwritten(name, error)) from None
    raise typer.Exit(answer.code)


def _print(name: str, answer: Answer, threads: int, common: Common) -> None:
    opening = None if answer.page is None else open_page(answer.page)
    notes = {
        escaped(model): escaped(note, most=MAX_MESSAGE_LETTERS)
        for model, note in answer.notes.items()
        if note
    }
    if common.as_json:
        facts = {"threads": threads, **answer.facts}
        if opening is not None:
            facts["open"] = {name: opening[name] for name in ("opened", "page", "reason")}
        if notes:
            named = (f"{model}: {note}" if model else note for model, note in notes.items())
            facts["on_loading"] = " ".join(named)
        print_json(name, answer.code, facts)
    elif not common.quiet:
        answer.show()
        if opening is not None:
            print(opening["words"])
        for model, note in notes.items():
            print(f"on loading {model}: {note}" if model else f"on loading: {note}")


def code_of(error: Exception) -> int | None:
    """The exit code of an error that a person can act on; None for a fault of the program."""
    if isinstance(error, OSError):
        return LIMIT if error.errno in _FULL else USAGE
    if isinstance(error, MemoryError):
        return LIMIT
    if isinstance(error, ImportError):  # with a name: one of our own imports
        return LIMIT if error.name is None else None
    from dsf.evaluate.memory_plan import is_out_of_memory
    from dsf.inspection import ReconstructionError
    from dsf.jobs import JobError

    if isinstance(error, (ReconstructionError, JobError)):
        return FAILED
    if is_out_of_memory(error):
        return LIMIT
    return USAGE if isinstance(error, ValueError) else None


def worded(error: BaseException) -> str:
    """What happened and what to do, in one sentence or a few."""
    if isinstance(error, OSError) and error.strerror and error.errno is not None:
        place = f"{Path(str(error.filename))}: " if error.filename is not None else ""
        cure = _CURES.get(error.errno)
        return f"{place}{error.strerror}" + (f"; {cure}." if cure else ".")
    if isinstance(error, UnicodeDecodeError):
        return (
            f"expected UTF-8 text, got byte 0x{error.object[error.start]:02x} at {error.start}. "
            "Check which file was given."
        )
    is_ours = type(error).__module__.startswith("dsf.")  # ours say themselves what to do
    if isinstance(error, MemoryError | RuntimeError) and not is_ours:
        from dsf.evaluate.memory_plan import is_out_of_memory

        if is_out_of_memory(error):
            reason = str(error).partition("\n")[0].rstrip(". ")
            return (
                f"the memory of this machine ran out{f' ({reason})' if reason else ''}. Give a "
                "shorter input or fewer layers (--layers)."
            )
    return str(error)


def unwritten(command: str, error: OSError) -> int:
    """The exit code where standard output took no answer; prints the reason, if there is one.

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
    """Print an error: as a sentence, or as the one JSON object."""
    if verbose or code == FAULT:
        traceback.print_exception(error)
    kind = type(error).__name__
    words = escaped(worded(error), most=MAX_MESSAGE_LETTERS) or "no further word"
    if code == FAULT:
        words = (
            f"a fault of dsf itself, not of your call: {kind}: {words} Please report it, with the "
            'traceback above and the output of "dsf doctor --json".'
        )
    print_error(command, kind, words, code, as_json=as_json)


def print_error(command: str, kind: str, words: str, code: int, *, as_json: bool) -> None:
    if as_json:
        try:
            print_json(command, code, {"error": {"kind": kind, "message": words}})
            sys.stdout.flush()
        except OSError as error:
            sys.exit(unwritten(command, error))
    else:
        once = words.removeprefix(f"{command}: ")  # some errors begin with the function's name
        with suppress(OSError):  # a log that is full does not change the exit code
            print(f"{_title(command)}: {once}", file=sys.stderr, flush=True)


def _title(command: str) -> str:
    return f"dsf {command}".rstrip()


def print_json(command: str, code: int, facts: dict[str, Any]) -> None:
    whole = {"schema_version": SCHEMA_VERSION, "command": command, "exit_code": code, **facts}
    print(json.dumps(_finite(whole), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    """The same with null for numbers that JSON has no form for."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
