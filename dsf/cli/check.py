"""``dsf check``: the properties of every layer with verdicts, or an earlier run's evidence."""

from pathlib import Path
from typing import Annotated

import typer

from dsf.cli.answer import Answer, AsJson, Quiet, Verbose, give
from dsf.cli.model_options import Ids, Offline, Text, TextFile
from dsf.cli.threads import ThreadCount, Threads


def run(
    model: Annotated[
        str, typer.Argument(help="Folder of a checkpoint, a GGUF file, a hub id, or a run.")
    ],
    *,
    text: Text = None,
    ids: Ids = None,
    file: TextFile = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("dsf-run"),
    require: Annotated[
        list[str] | None,
        typer.Option(help="A property that must hold; exit code 1 if refuted or never decided."),
    ] = None,
    root: Annotated[
        str | None, typer.Option(help="The root hash that the checked run must have.")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help='Which layers: "0:4", "2,5", a name or a pattern such as "*.3.*".'),
    ] = None,
    heads: Annotated[
        str | None, typer.Option(help='Which heads, or channels, of each layer: "2" or "0:4".')
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Run the model in float64.")] = False,
    offline: Offline = False,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Decide every property of every layer of MODEL on one input: PROVED, REFUTED or UNKNOWN.

    The run folder holds the evidence; "dsf check RUN" has two checkers decide it again, names every
    file that is not as it was written, and prints the root hash. A run that was interrupted
    continues where it stopped.
    """

    def work(count: ThreadCount) -> Answer:
        from dsf.cli.prompt import Prompt
        from dsf.cli.run_model import Options, inspect_checkpoint
        from dsf.cli.verdicts import check_again, check_model, is_run

        if is_run(Path(model)):
            return check_again(Path(model), root)
        if root is not None:
            raise ValueError(f"--root is for the folder of a run, but {model} is none.")
        options = Options(exact=exact, layers=layers, heads=heads, offline=offline)
        inspection = inspect_checkpoint(model, Prompt(text, ids, file), count, options)
        return check_model(inspection, out, require or [], watched=not (as_json or quiet))

    give("check", work, threads=threads, as_json=as_json, quiet=quiet, verbose=verbose)
