"""``dsf support``: what every token mixer of a model becomes, without running it."""

from typing import Annotated

import typer

from dsf.cli.answer import LIMIT, WELL, Answer, AsJson, Quiet, Verbose, give
from dsf.cli.model_argument import check_model
from dsf.cli.model_options import Revision
from dsf.cli.options import check_layers
from dsf.cli.threads import ThreadCount, Threads

HEADS = ("module", "class", "read as", "exact", "how")


def run(
    model: Annotated[
        str, typer.Argument(help="Folder with a config.json, or a hub id owner/name.")
    ],
    *,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Make no network connection; folders need none."),
    ] = False,
    revision: Revision = None,
    layers: Annotated[
        str | None,
        typer.Option(help='Which mixers: "0:4", "2,5", a name or a pattern such as "*.3.*".'),
    ] = None,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """List every token mixer of MODEL: its class, what it is read as, and whether exactly.

    Needs the settings alone: no weights are loaded and nothing is run.
    """

    def check() -> None:
        check_layers(layers)
        check_model(model, offline=offline, revision=revision, needs_weights=False)

    def work(_: ThreadCount) -> Answer:
        from dsf.cli.terminal import print_table
        from dsf.inspection.choice import parsed
        from dsf.inspection.support_table import EXACT, NO, support
        from dsf.report.escaping import escaped

        wanted = None if layers is None else parsed(layers)
        found = support(model, layers=wanted, offline=offline, revision=revision)
        read = [one for one in found if one.exact != NO]
        exact = [one for one in found if one.exact == EXACT]

        def show() -> None:
            print_table(HEADS, [(x.name, x.kind, x.mixer, x.exact, x.how) for x in found])
            print(f"{len(found)} token mixers, {len(exact)} read exactly")

        listed = [{name: escaped(part) for name, part in vars(one).items()} for one in found]
        facts = {"model": escaped(model), "mixers": listed}
        return Answer(facts, show, code=WELL if read else LIMIT)

    give(
        "support",
        work,
        threads=threads,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
        check=check,
    )
