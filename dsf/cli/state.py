"""``dsf state``: what the recurrent states of a model hold, and why they lose the rest."""

from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from dsf.cli.answer import Answer, AsJson, Quiet, Verbose, give
from dsf.cli.model_argument import check_call
from dsf.cli.model_options import (
    Checkpoint,
    Ids,
    Layers,
    NumberType,
    Offline,
    Revision,
    Text,
    TextFile,
)
from dsf.cli.options import Options
from dsf.cli.output_place import check_folder, check_free
from dsf.cli.prompt import Prompt
from dsf.cli.threads import ThreadCount, Threads
from dsf.cli.typed_numbers import whole_option


def run(
    model: Checkpoint,
    *,
    text: Text = None,
    ids: Ids = None,
    file: TextFile = None,
    layers: Layers = None,
    maps: Annotated[
        int, whole_option(help="How many heads or channels of a layer, spread evenly.")
    ] = 32,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write one figure for each layer into this folder.",
            readable=False,
        ),
    ] = None,
    dtype: NumberType = None,
    offline: Offline = False,
    revision: Revision = None,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Say what the recurrent state of every layer of MODEL holds after an input.

    \b
      kept      share of the tokens' signals that can be read off the last state
      decayed   share that has decayed
      taken     share that cannot be told from what other tokens left (the state is full)
      length    whether the norm of the state grows, fades or stays over the second half

    The shares are means over tokens and heads, for a state that is known up to the rounding of
    bfloat16. Layers that keep every token, such as attention, have no state of fixed size.

    Example: dsf state FOLDER --file book.txt --out figures
    """
    prompt = cache(lambda: Prompt(text, ids, file))
    asked = cache(lambda: Options(dtype=dtype, layers=layers, offline=offline, revision=revision))

    def check() -> None:
        if maps < 1:
            raise ValueError(f"--maps is {maps}; it is how many are looked at, at least 1.")
        check_call(model, prompt(), asked())
        if out is not None:
            check_folder(out, models=[model])
            check_free(out)

    def work(count: ThreadCount) -> Answer:
        from dsf.cli.loading_notes import notes_of, with_notes
        from dsf.cli.run_model import inspect_checkpoint
        from dsf.cli.state_table import show_states
        from dsf.report.plot import report_state
        from dsf.runtime.files import alone_in

        inspection = inspect_checkpoint(model, prompt(), count, asked())
        found = report_state(inspection, maps=maps)
        written = []
        if out is not None:
            with alone_in(out):
                written = found.save(out)
        facts = {**found.to_json(), "written": [str(path) for path in written]}
        answer = Answer(facts, lambda: show_states(found, written))
        return with_notes(answer, notes_of(inspection))

    give(
        "state",
        work,
        threads=threads,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
        check=check,
    )
