"""``main``: the commands, and what they leave to the shell."""

import os
import signal
import sys
from contextlib import suppress
from io import TextIOWrapper
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from dsf.cli import command as base
from dsf.cli.attribute import attribute
from dsf.cli.audit import audit
from dsf.cli.check import check
from dsf.cli.compare import compare
from dsf.cli.demo import demo
from dsf.cli.doctor import doctor
from dsf.cli.heads import heads
from dsf.cli.inspect_model import inspect
from dsf.cli.intervene import intervene
from dsf.cli.measure import measure
from dsf.cli.state import state
from dsf.runtime.distribution import VERSION

COMMANDS: dict[base.Command, str] = {
    demo: "Eight small models inside the package, or a page with sliders.",
    inspect: "One model on one input: maps and a report.",
    heads: "What every head looks at, by name, with a control.",
    intervene: "What it says with edges, heads or states changed.",
    check: "Properties of every layer, with verdicts and evidence.",
    measure: "Every layer on many prompts: a job that resumes.",
    attribute: "Which tokens, layers and edges made it say this.",
    state: "What the recurrent states hold: decay, or other tokens.",
    audit: "Which layer made a run differ from float64.",
    compare: "Two models on one input: maps, numbers, verdicts.",
    doctor: "What this machine has, and what is missing.",
}


class GivenOnce(TyperCommand):
    """A command whose options of one value are given once; the parser would keep the last."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        option: Any
        for option in given:
            has_one_value = not (option.multiple or getattr(option, "is_flag", False))
            if option.param_type_name == "option" and has_one_value and given.count(option) > 1:
                raise typer.BadParameter("expected one value, got several.", ctx, option)
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="dsf",
    help="Read the token mixers of a trained model as linear time-varying systems.",
    epilog=f"Exit codes: {'; '.join(f'{code} {words}' for code, words in base.IN_WORDS.items())}.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for _command, _help in COMMANDS.items():
    _name = _command.__name__
    app.command(_name, short_help=_help, cls=GivenOnce)(base.callback(_name, _command))


def _show_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"dsf {VERSION}")
        raise typer.Exit
    return asked


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Options of every command come after its name."""


def main(arguments: list[str] | None = None) -> None:
    # The model library's advice is not an answer; an error still comes through.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    given = sys.argv[1:] if arguments is None else arguments
    known = {command.__name__ for command in COMMANDS}
    command = next((word for word in given if word in known), "")
    as_json = "--json" in given
    _write_every_letter()
    if sys.stdout is None:  # the shell closed it, as with >&-
        closed = ValueError("standard output is closed. Send the answer to a file or to /dev/null.")
        base.complain(command, closed, base.LIMIT, as_json=False)
        sys.exit(base.LIMIT)
    try:
        os.getcwd()
    except OSError:  # without it, libraries end the process
        gone = ValueError("the folder that this runs in has been removed. Change to another.")
        base.complain(command, gone, base.USAGE, as_json=as_json)
        sys.exit(base.USAGE)
    code = _code(given, command, as_json=as_json)
    try:
        sys.stdout.flush()
    except OSError as error:
        code = base.unwritten(command, error)
    sys.exit(code)


def _write_every_letter() -> None:
    """A terminal or a log without Unicode gets escapes for the letters that it does not have."""
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, TextIOWrapper):  # closed, or caught by a test
            continue
        if stream.errors == "strict" or "utf" not in stream.encoding.lower():
            stream.reconfigure(errors="backslashreplace")


def _code(arguments: list[str], command: str, *, as_json: bool) -> int:
    if as_json and not command and "--version" in arguments:
        base.print_json(command, base.WELL, {"version": VERSION})
        return base.WELL
    parser, stopped = typer.main.get_command(app), _noting_interrupts()
    try:
        code = int(parser(arguments, prog_name="dsf", standalone_mode=False) or 0)
    except (KeyboardInterrupt, typer.Abort):
        code = base.INTERRUPTED
    except typer.Exit as exit:  # newer parsers leave in this way when they are interrupted, too
        code = exit.exit_code
    except OSError as error:  # of the help page: commands print their own
        code = base.unwritten(command, error)
    except Exception as error:
        # What is interrupted while it is being imported may fail in any way.
        code = base.INTERRUPTED if stopped else _refused(error, command, as_json=as_json)
    if stopped and code == 0:  # a library caught the interrupt and went on
        code = base.INTERRUPTED
    if code == base.INTERRUPTED:
        if stopped:  # whoever presses the keys again would see libraries fail while they close
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        words = "interrupted. Files that were finished are whole and stay."
        base.print_error(command, "KeyboardInterrupt", words, base.INTERRUPTED, as_json=as_json)
    return code


def _noting_interrupts() -> list[int]:
    """A list that is empty until a person interrupts this process."""
    stopped: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        stopped.append(number)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGINT, note)
    return stopped


def _refused(error: Exception, command: str, *, as_json: bool) -> int:
    """Print the parser's error, or a fault of dsf itself, and return its exit code."""
    if not hasattr(error, "show"):  # the parser's errors have moved between its releases
        base.complain(command, error, base.FAULT, as_json=as_json)
        return base.FAULT
    if as_json or command:
        words = str(getattr(error, "format_message", error.__str__)())
        base.print_error(command, type(error).__name__, words, base.USAGE, as_json=as_json)
    else:
        error.show()
    return base.USAGE
