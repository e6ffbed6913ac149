"""``main``: the commands, and what they leave to the shell."""

import os
import signal
import sys
from contextlib import suppress
from io import TextIOWrapper
from types import FrameType
from typing import Annotated

import typer

from dsf.cli import (
    attribute,
    audit,
    check,
    compare,
    demo,
    doctor,
    heads,
    inspect_model,
    intervene,
    measure,
    playground,
    state,
    support,
)
from dsf.cli.answer import complain, interrupted, print_json, tell, unwritten
from dsf.cli.errors import FAULT, IN_WORDS, INTERRUPTED, LIMIT, USAGE, WELL
from dsf.cli.given_once import check_given_once
from dsf.cli.output_place import check_named
from dsf.runtime.distribution import VERSION

app = typer.Typer(
    name="dsf",
    help="Read the token mixers of a trained model as linear time-varying systems.",
    epilog=f"Exit codes: {'; '.join(f'{code} {words}' for code, words in IN_WORDS.items())}.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("demo", short_help="Four small models inside the package, side by side.")(demo.run)
app.command("inspect", short_help="One model on one input: maps and a report.")(inspect_model.run)
app.command("heads", short_help="What every head looks at, by name, with a control.")(heads.run)
app.command("intervene", short_help="What it says with edges, heads or states changed.")(
    intervene.run
)
app.command("support", short_help="What the mixers of a model become, without running it.")(
    support.run
)
app.command("check", short_help="Properties of every layer, with verdicts and evidence.")(check.run)
app.command("measure", short_help="Every layer on many prompts: a job that resumes.")(measure.run)
app.command("attribute", short_help="Which tokens, layers and edges made it say this.")(
    attribute.run
)
app.command("state", short_help="What the recurrent states hold: decay, or other tokens.")(
    state.run
)
app.command("audit", short_help="How far a run lies from its modules in float64.")(audit.run)
app.command("compare", short_help="Two models on one input: maps, numbers, verdicts.")(compare.run)
app.command("playground", short_help="One page with sliders, from softmax to the delta rule.")(
    playground.run
)
app.command("doctor", short_help="What this machine has, and what is missing.")(doctor.run)


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
    """Run the command line and leave with an exit code."""
    # The model library's advice is not an answer; an error still comes through.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    given = sys.argv[1:] if arguments is None else arguments
    _write_every_letter()
    if sys.stdout is None:  # the shell closed it, as with >&-
        closed = ValueError("standard output is closed. Send the answer to a file or to /dev/null.")
        complain(_command(given), closed, LIMIT, as_json=False)
        sys.exit(LIMIT)
    code = _code(given) if _has_folder(given) else USAGE
    try:
        sys.stdout.flush()
    except OSError as error:
        code = unwritten(_command(given), error)
    sys.exit(code)


def _write_every_letter() -> None:
    """A terminal or a log without Unicode gets escapes for the letters that it does not have."""
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, TextIOWrapper):  # closed, or caught by a test
            continue
        if stream.errors == "strict" or "utf" not in stream.encoding.lower():
            stream.reconfigure(errors="backslashreplace")


def _has_folder(arguments: list[str]) -> bool:
    """Whether the folder that this runs in is there; without it, libraries end the process."""
    try:
        os.getcwd()
    except OSError:
        gone = ValueError("the folder that this runs in has been removed. Change to another.")
        complain(_command(arguments), gone, USAGE, as_json="--json" in arguments)
        return False
    return True


def _code(arguments: list[str]) -> int:
    command, as_json = _command(arguments), "--json" in arguments
    parser = typer.main.get_command(app)
    try:
        check_named(arguments)
        chosen = getattr(parser, "commands", {}).get(command)
        check_given_once(arguments, getattr(chosen, "params", ()))
    except ValueError as error:
        complain(command, error, USAGE, as_json=as_json)
        return USAGE
    if as_json and not command and "--version" in arguments:
        print_json(command, WELL, {"version": VERSION})
        return WELL
    stopped = _noting_interrupts()
    try:
        code = int(parser(arguments, prog_name="dsf", standalone_mode=False) or 0)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except typer.Exit as exit:  # newer parsers leave in this way when they are interrupted, too
        code = exit.exit_code
    except OSError as error:  # of the help page: commands tell their own
        code = unwritten(command, error)
    except Exception as error:
        # What is interrupted while it is being imported may fail in any way.
        code = INTERRUPTED if stopped else _refused(error, command, as_json=as_json)
    if stopped and code == 0:  # a library caught the interrupt and went on
        code = INTERRUPTED
    if code == INTERRUPTED:
        if stopped:  # whoever presses the keys again would see libraries fail while they close
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        interrupted(command, as_json=as_json)
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
    """The exit code of the parser's error, or of a fault of dsf itself."""
    if not hasattr(error, "show"):  # the parser's errors have moved between its releases
        complain(command, error, FAULT, as_json=as_json)
        return FAULT
    if as_json:
        words = str(getattr(error, "format_message", error.__str__)())
        tell(command, type(error).__name__, words, USAGE, as_json=True)
    else:
        error.show()
    return USAGE


def _command(arguments: list[str]) -> str:
    """The name of the command among the arguments, empty where there is none."""
    known = {each.name for each in app.registered_commands}
    return next((word for word in arguments if word in known), "")
