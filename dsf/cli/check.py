"""``dsf check``: the properties of every layer with verdicts, or an earlier run's evidence."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from dsf.cli.answer import Answer, AsJson, Quiet, Verbose, give
from dsf.cli.earlier_run import check_not_foreign, check_not_of_another, is_run, known_source
from dsf.cli.known_names import PROPERTIES, check_known
from dsf.cli.model_argument import check_call
from dsf.cli.model_options import Heads, Ids, Layers, Offline, Text, TextFile
from dsf.cli.options import Options
from dsf.cli.output_place import check_folder, check_free
from dsf.cli.prompt import Prompt
from dsf.cli.threads import ThreadCount, Threads

RUN = Path("dsf-run")


def run(
    model: Annotated[
        str, typer.Argument(help="Folder of a checkpoint, a GGUF file, a hub id, or a run.")
    ],
    *,
    text: Text = None,
    ids: Ids = None,
    file: TextFile = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.", readable=False)] = RUN,
    require: Annotated[
        list[str] | None,
        typer.Option(help="A property that must hold; exit code 1 if refuted or never decided."),
    ] = None,
    root: Annotated[
        str | None, typer.Option(help="The root hash that the checked run must have.")
    ] = None,
    layers: Layers = None,
    heads: Heads = None,
    exact: Annotated[bool, typer.Option("--exact", help="Run the model in float64.")] = False,
    offline: Offline = False,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Decide every property of every layer of MODEL on one input: PROVED, REFUTED or UNKNOWN.

    The run folder holds the evidence; "dsf check RUN" has the checker decide it again, names every
    file that is not as it was written, and prints the root hash. A run that was interrupted
    continues where it stopped.
    """

    asked = cache(lambda: Options(exact=exact, layers=layers, heads=heads, offline=offline))
    prompt = cache(lambda: Prompt(text, ids, file))
    again = is_run(Path(model))

    def check() -> None:
        if again:
            elsewhere = None if out == RUN else out
            given = [text, ids, file, layers, heads, require, elsewhere, exact or None]
            _check_again(root, given=given)
            return
        if root is not None:
            raise ValueError(f"--root is for the folder of a run, but {model} is none.")
        if not model.strip():
            raise ValueError("MODEL is empty. Give a folder, a GGUF file, or a hub id owner/name.")
        check_known("--require", require or (), PROPERTIES)
        if text is None and ids is None and file is None:
            raise ValueError(
                f"{model} is no folder of a run to be checked again, and a model is checked on an "
                "input. Give the folder that dsf check wrote, or a model and exactly one of "
                "--text, --ids and --file."
            )
        check_call(model, prompt(), asked())
        check_folder(out, files=["report.html"], models=[model])
        check_not_foreign(out)
        check_free(out)
        check_not_of_another(out, known_source(prompt()))

    def work(count: ThreadCount) -> Answer:
        from dsf.cli.loading_notes import notes_of, with_notes
        from dsf.cli.run_model import inspect_checkpoint
        from dsf.cli.verdicts import check_again, check_model

        if again:
            return check_again(Path(model), root)
        inspection = inspect_checkpoint(model, prompt(), count, asked())
        answer = check_model(inspection, out, require or [], watched=not (as_json or quiet))
        return with_notes(answer, notes_of(inspection))

    give(
        "check",
        work,
        threads=threads,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
        check=check,
    )


def _check_again(root: str | None, given: Sequence[object]) -> None:
    """Raises ValueError for options that an earlier run has no use for."""
    if any(each is not None for each in given):
        raise ValueError(
            "MODEL is the folder of a run, which is checked as it was written. Leave out what is "
            "said of the input, of layers and properties, of --exact and --out, or give the folder "
            "of the model."
        )
    if root is not None and not re.fullmatch(r"(sha256 )?[0-9a-fA-F]{64}", root):
        raise ValueError(f"--root is {root!r}; a root hash has 64 hexadecimal digits.")
