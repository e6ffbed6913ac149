"""``dsf playground``: the page with sliders, written and perhaps opened."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from dsf.cli.command import Answer, Run, Work
from dsf.cli.options import Open, check_known, written_place
from dsf.cli.output_place import check_file


def playground(
    preset: Annotated[
        str, typer.Argument(help="The architecture that it opens with.")
    ] = "softmax_attention",
    out: Annotated[Path, written_place("The page to write.")] = Path("playground.html"),
    open_: Open = False,
) -> Work:
    """Write one page with sliders for A, B, C, D, decay, step and write strength.

    It shows map, state and response of an architecture, token by token, from softmax attention to
    the delta rule. It needs no network.
    """
    presets = files("dsf.report") / "playground_page" / "presets.json"
    known = json.loads(presets.read_text(encoding="utf-8"))["presets"]
    check_known("PRESET", [preset], (each["name"] for each in known))
    check_file(out, "--out", makes_folder=True)

    def work(_: Run) -> Answer:
        from dsf.report import playground as draw_playground

        page = draw_playground(preset).write(out)
        return Answer(
            facts={"files": {"playground": str(page)}},
            show=lambda: print(page),
            page=page if open_ else None,
        )

    return work
