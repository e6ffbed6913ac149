"""``dsf playground``: the page with sliders, written and perhaps opened."""

from pathlib import Path
from typing import Annotated

import typer

from dsf.cli.answer import Answer, AsJson, Quiet, Verbose, give
from dsf.cli.threads import ThreadCount


def run(
    preset: Annotated[
        str, typer.Argument(help="The architecture that it opens with.")
    ] = "softmax_attention",
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("playground.html"),
    open_: Annotated[bool, typer.Option("--open", help="Show it in a browser.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write one page with sliders for A, B, C, D, decay, step and write strength.

    It shows map, state and response of an architecture, token by token, from softmax attention to
    the delta rule. It needs no network.
    """

    def work(_: ThreadCount) -> Answer:
        from dsf.cli.results import open_page
        from dsf.report import playground

        page = str(playground(preset).write(out))
        if open_:
            open_page(page)
        return Answer({"files": {"playground": page}}, lambda: print(page))

    give("playground", work, threads=None, as_json=as_json, quiet=quiet, verbose=verbose)
