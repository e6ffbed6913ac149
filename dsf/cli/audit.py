"""``dsf audit``: how far the runs of a model lie from its modules in float64."""

from typing import Annotated

import typer

from dsf.cli.answer import Answer, AsJson, Quiet, Verbose, give
from dsf.cli.model_argument import check_model
from dsf.cli.model_options import Checkpoint, Layers, Offline
from dsf.cli.options import check_device, check_layers, check_number_types, counted
from dsf.cli.threads import ThreadCount, Threads


def run(
    model: Checkpoint,
    *,
    lengths: Annotated[
        str, typer.Option(help='Numbers of tokens, such as "512,4k,32k"; k is 1024.')
    ] = "512,2k",
    dtypes: Annotated[
        str, typer.Option(help="Number types of the weights, with commas between them.")
    ] = "float32,bfloat16",
    layers: Layers = None,
    device: Annotated[
        str | None,
        typer.Option(help="Where the model runs, such as cuda; the processor if left out."),
    ] = None,
    offline: Offline = False,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare the layers of MODEL with their modules in float64, by length and number type.

    The tokens are random. Exit code 1: a layer was not reproduced, or a run lies further from its
    module in float64 than its number type and length explain, as after a mistake in a kernel. Exit
    code 3: nothing of the kind, but a layer was not read, so that nothing is known about it.
    """

    def check() -> None:
        check_number_types(dtypes)
        check_layers(layers)
        check_device(device)
        longest = max(counted(lengths))
        check_model(model, offline=offline).check_length(longest)

    def work(count: ThreadCount) -> Answer:
        from dsf.cli.audited import audit_checkpoint, code_of, show_audit, typed
        from dsf.cli.loading_notes import with_notes

        settings = counted(lengths), typed(dtypes)
        watched = not (as_json or quiet)
        audited = audit_checkpoint(
            model, *settings, layers, device, count, offline=offline, watched=watched
        )
        rows = audited.rows
        facts = {"model": model, "rows": [vars(row) for row in rows]}
        answer = Answer(facts, lambda: show_audit(rows), code=code_of(rows))
        return with_notes(answer, audited.notes)

    give(
        "audit",
        work,
        threads=threads,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
        check=check,
    )
