"""``dsf playground``: the page with sliders, written and perhaps opened."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from dsf.cli.answer import Answer, AsJson, Quiet, Verbose, give
from dsf.cli.browser import open_page
from dsf.cli.known_names import meant
from dsf.cli.output_place import check_file
from dsf.cli.threads import ThreadCount, Threads


def run(
    preset: Annotated[
        str, typer.Argument(help="The architecture that it opens with.")
    ] = "softmax_attention",
    out: Annotated[Path, typer.Option(help="The page to write.", readable=False)] = Path(
        "playground.html"
    ),
    open_: Annotated[bool, typer.Option("--open", help="Show it in a browser.")] = False,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write one page with sliders for A, B, C, D, decay, step and write strength.

    It shows map, state and response of an architecture, token by token, from softmax attention to
    the delta rule. It needs no network.
    """

    def check() -> None:
        if preset not in (known := _presets()):
            raise ValueError(f"there is no preset {preset!r}. {meant(preset, known)}")
        check_file(out, "--out", makes_folder=True)

    def work(_: ThreadCount) -> Answer:
        from dsf.report import playground

        page = playground(preset).write(out)
        opening = open_page(page) if open_ else None
        told = [str(page)] if opening is None else [str(page), str(opening)]
        facts: dict[str, Any] = {"files": {"playground": str(page)}}
        facts.update({} if opening is None else {"open": opening.facts()})
        return Answer(facts, lambda: print("\n".join(told)))

    give(
        "playground",
        work,
        threads=threads,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
        check=check,
    )


def _presets() -> list[str]:
    """The names of the architectures that it may open with."""
    file = files("dsf.report") / "playground_page" / "presets.json"
    return [each["name"] for each in json.loads(file.read_text(encoding="utf-8"))["presets"]]
