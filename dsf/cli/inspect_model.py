"""``dsf inspect``: the layers of one model on one input."""

import time
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from dsf.cli.answer import FAILED, WELL, Answer, AsJson, Quiet, Verbose, give
from dsf.cli.browser import open_page
from dsf.cli.model_argument import check_call
from dsf.cli.model_options import (
    Checkpoint,
    Heads,
    Ids,
    Layers,
    NumberType,
    Revision,
    Text,
    TextFile,
)
from dsf.cli.options import Options
from dsf.cli.output_place import REPORT, check_folder, check_free, check_no_run
from dsf.cli.prompt import Prompt
from dsf.cli.threads import ThreadCount, Threads
from dsf.cli.typed_numbers import real_option


def run(
    model: Checkpoint,
    *,
    text: Text = None,
    ids: Ids = None,
    file: TextFile = None,
    out: Annotated[
        Path, typer.Option(help="Folder for report.html and maps.png.", readable=False)
    ] = Path("dsf-report"),
    no_report: Annotated[
        bool, typer.Option("--no-report", help="Rebuild and compare, and write no files.")
    ] = False,
    layers: Layers = None,
    heads: Heads = None,
    dtype: NumberType = None,
    exact: Annotated[bool, typer.Option("--exact", help="Run the model in float64.")] = False,
    tolerance: Annotated[
        float | None,
        real_option(
            help="Largest difference of a rebuilt layer from its module in float64; 1e-12 if left "
            "out."
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first layer that is not reproduced.")
    ] = False,
    layerwise: Annotated[
        bool, typer.Option("--layerwise", help="Load the weights block by block.")
    ] = False,
    memory: Annotated[
        float | None,
        real_option(
            help="GB that the inspection may take beyond the model; by default what there is."
        ),
    ] = None,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Make no network connection; folders need none."),
    ] = False,
    revision: Revision = None,
    open_: Annotated[bool, typer.Option("--open", help="Show the report in a browser.")] = False,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Rebuild every token mixer of MODEL on one input, compare, and write a report.

    Give the input as --text, --ids or --file. A layer that is not reproduced is listed with the
    reason, and the exit code is 1.
    """

    asked = cache(
        lambda: Options(
            exact=exact,
            dtype=dtype,
            layers=layers,
            heads=heads,
            tolerance=tolerance,
            strict=strict,
            layerwise=layerwise,
            memory=memory,
            offline=offline,
            revision=revision,
        )
    )
    prompt = cache(lambda: Prompt(text, ids, file))

    def check() -> None:
        check_call(model, prompt(), asked())
        if no_report and open_:
            raise ValueError("--open and --no-report exclude each other: leave one of them out.")
        if not no_report:
            check_folder(out, files=REPORT, models=[model])
            check_no_run(out)
            check_free(out)

    def work(count: ThreadCount) -> Answer:
        from dsf.cli.layers import layer_facts, show_layers
        from dsf.cli.loading_notes import notes_of, with_notes
        from dsf.cli.results import write_results
        from dsf.cli.run_model import inspect_checkpoint
        from dsf.runtime.files import alone_in

        begun = time.perf_counter()
        watched = not (as_json or quiet)
        files: dict[str, str] = {}
        with nullcontext() if no_report else alone_in(out):
            inspection = inspect_checkpoint(
                model, prompt(), count, asked(), told=watched, reported=not no_report
            )
            if not no_report:
                files = write_results(inspection, out, title=None, facts={}, watched=watched)
        seconds = time.perf_counter() - begun
        opening = open_page(Path(files["report"])) if open_ else None

        def show() -> None:
            show_layers(inspection)
            written = f"{files['report']} and {files['picture']}, after" if files else "After"
            print(f"{written} {seconds:.1f} s")
            if opening is not None:
                print(opening)

        failed = any(missed.formula is not None for missed in inspection.unsupported)
        facts = {**layer_facts(inspection), "files": files, "seconds": seconds}
        facts.update({} if opening is None else {"open": opening.facts()})
        answer = Answer(facts, show, code=FAILED if failed else WELL)
        return with_notes(answer, notes_of(inspection))

    give(
        "inspect",
        work,
        threads=threads,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
        check=check,
    )
