"""``dsf inspect``: the layers of one model on one input."""

import time
from pathlib import Path
from typing import Annotated

import typer

from dsf.cli.answer import Answer, AsJson, Quiet, Verbose, give
from dsf.cli.threads import ThreadCount, Threads


def run(
    model: Annotated[str, typer.Argument(help="Folder of a checkpoint, or a hub id owner/name.")],
    *,
    text: Annotated[str | None, typer.Option(help="Text for the model's own tokenizer.")] = None,
    ids: Annotated[
        str | None, typer.Option(help='Token numbers, such as "1 2 3"; for any model.')
    ] = None,
    file: Annotated[Path | None, typer.Option(help="A UTF-8 file to take the text from.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for report.html and maps.png.")] = Path(
        "dsf-report"
    ),
    exact: Annotated[bool, typer.Option("--exact", help="Run the model in float64.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Contact nobody; a folder never needs to.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub model.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show the report in a browser.")] = False,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Rebuild every token mixer of MODEL on one input, compare, and write a report.

    Give the input as --text, --ids or --file.
    """

    def work(count: ThreadCount) -> Answer:
        from dsf.cli.layers import layer_facts, show_layers
        from dsf.cli.results import open_page, write_results
        from dsf.cli.run_model import Prompt, inspect_checkpoint

        begun = time.perf_counter()
        inspection = inspect_checkpoint(
            model, Prompt(text, ids, file), count, exact=exact, offline=offline, revision=revision
        )
        watched = not (as_json or quiet)
        files = write_results(inspection, out, title=None, facts={}, watched=watched)
        seconds = time.perf_counter() - begun
        if open_:
            open_page(files["report"])

        def show() -> None:
            show_layers(inspection)
            print(f"{files['report']} and {files['picture']}, after {seconds:.1f} s")

        return Answer({**layer_facts(inspection), "files": files, "seconds": seconds}, show)

    give("inspect", work, threads=threads, as_json=as_json, quiet=quiet, verbose=verbose)
