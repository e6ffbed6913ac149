"""``dsf intervene``: what a model says with some of its token mixing changed."""

from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from dsf.cli.answer import Answer, AsJson, Quiet, Verbose, give
from dsf.cli.change import Change
from dsf.cli.model_options import Checkpoint, Ids, NumberType, Offline, Revision, Text, TextFile
from dsf.cli.options import Options
from dsf.cli.threads import ThreadCount, Threads
from dsf.cli.typed_numbers import whole_option


def run(
    model: Checkpoint,
    *,
    edit: Annotated[
        list[str] | None,
        typer.Option(
            help='A change, such as "cut layers=*.3.* heads=2 read=5"; may be given several times.'
        ),
    ] = None,
    edits: Annotated[
        Path | None,
        typer.Option(
            help="A JSON file with a list of edits, as to_json writes them.", readable=False
        ),
    ] = None,
    wanted: Annotated[
        str | None,
        typer.Option(
            "--target",
            help='A token whose logit is compared: its text, such as " Paris", or with --ids its '
            "number.",
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="A second token, whose logit is subtracted.")
    ] = None,
    text: Text = None,
    ids: Ids = None,
    file: TextFile = None,
    other_text: Annotated[
        str | None, typer.Option(help="The text of another run, for map-from and the like.")
    ] = None,
    other_ids: Annotated[
        str | None, typer.Option(help="The token numbers of another run, in place of its text.")
    ] = None,
    position: Annotated[
        int, whole_option(help="After which token the next one is shown, from 0; -1 is the last.")
    ] = -1,
    top: Annotated[
        int,
        whole_option(
            help="How many of the likeliest next tokens are shown, or of the edits of a sweep."
        ),
    ] = 5,
    sweep: Annotated[
        bool,
        typer.Option("--sweep", help="Try every edit in a run of its own."),
    ] = False,
    each: Annotated[
        str | None,
        typer.Option(
            help="With --sweep: one run for each layer, head or token that these fields name, such "
            "as layers,heads or read."
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="With --sweep: a file for finished runs, one a line; goes on where it ended.",
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
    """Run MODEL with edited token mixers, and say what changes in its next token.

    Later layers read their coefficients anew from what the edited ones put out. An edit is a name
    with fields:

    \b
      cut layers=*.3.* heads=2 read=5      no token reads token 5 there
      cut layers=3 written=9 read=0:4      token 9 does not read tokens 0 to 3
      scale layers=3 factor=0.5            edges times a factor; also written=, read=
      window layers=3 width=8              only the last 8 tokens are read
      sink layers=3                        the first token is not read
      negative layers=3                    negative weights are zero
      ablate layers=3 heads=0,2            the response of these heads is zero
      mean layers=3                        or its mean over the tokens; over=other: there
      forget layers=3 token=9              nothing passes from before token 9
      reduce layers=3 token=9 order=4      at most 4 numbers pass
      map-from layers=3                    the map of the run on --other-text
      value-from layers=3 tokens=5         its values
      state-from layers=3 token=9          its state

    \b
    layers= takes numbers, ranges, names and patterns. For softmax attention renormalise=yes masks
    the scores instead, so that the other weights of the row grow.

    Example: dsf intervene FOLDER --text "The capital of France is" --edit "ablate layers=3 heads=2"
    --target " Paris" --against " London"

    With --sweep every edit has a run of its own, and what is shown is by how much each moves the
    logit of --target: a heat map over layers, heads or tokens. --each makes many edits of one that
    names several layers, heads or tokens; a list inside the JSON of --edits acts together.

    \b
      --sweep --each layers,heads --edit "ablate layers=0:30 heads=0:9"     270 runs: which head?
      --sweep --each layers --edit "window layers=0:30 width=8"             30 runs: which layer?
      --sweep --each read --edit "cut layers=*.3.* read=0:40"               40 runs: which token?

    Blocks before an edit do not run again, and short inputs share batches. A sweep of an hour is
    safe with --resume sweep.jsonl: stopped, it goes on where it ended, and refuses the file of
    another model, input, target or list of edits.
    """
    asked = Change(
        text, ids, file, edit or [], edits, other_text, other_ids, wanted, against, top,
        each=each, is_sweep=sweep, resume=resume,
    )  # fmt: skip
    options = cache(lambda: Options(dtype=dtype, offline=offline, revision=revision))

    def work(count: ThreadCount) -> Answer:
        from dsf.cli.loading_notes import with_notes

        if sweep:
            from dsf.cli.swept import sweep_checkpoint

            effects = sweep_checkpoint(model, asked, position, count, options())
            answer = Answer(effects.facts(), effects.show)
            return with_notes(answer, effects.opened.loaded.notes)
        from dsf.cli.intervened import intervene_checkpoint

        found = intervene_checkpoint(model, asked, position, count, options())
        return with_notes(Answer(found.facts(), found.show), found.opened.loaded.notes)

    give(
        "intervene",
        work,
        threads=threads,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
        check=lambda: asked.check(model, position, options()),
    )
