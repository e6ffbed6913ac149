"""``dsf inspect``: the layers of one model on one input."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from math import prod
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsf.cli import early_checks as early
from dsf.cli import options as shared
from dsf.cli.command import FAILED, LIMIT, WELL, Answer, Run, Work
from dsf.cli.heads import named_heads
from dsf.cli.terminal import print_table, progress
from dsf.report.escaping import escaped

if TYPE_CHECKING:
    from dsf.inspection import InspectedLayer, Inspection
    from dsf.inspection.results.table import Table

MAX_SCORED_WEIGHTS = 2**22
"""Maximum number of weights of all maps for which the heads to look at are searched: a second."""
MAX_FULL_MIB = 1024


def inspect(
    model: shared.Checkpoint,
    *,
    prompt: shared.Prompt,
    out: Annotated[Path, "Folder for report.html and maps.png."] = Path("dsf-report"),
    no_report: Annotated[bool, "Rebuild and compare, and write no files."] = False,
    dry_run: Annotated[
        bool,
        "List what each mixer would be read as, by the settings alone: no weights are "
        "loaded and nothing is run.",
    ] = False,
    options: shared.Inspecting,
    full_resolution: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_FULL_MIB,
            metavar="MIB",
            help="Size of the maps that the report keeps token by token where they are longer than "
            "their pictures; 32 holds 300 maps of 512 tokens.",
        ),
    ] = 32,
    open_: shared.Open = False,
) -> Work:
    """Rebuild every token mixer of MODEL on one input, compare, and write a report.

    Give the input as --text, --ids or --file. A layer that is not reproduced is listed with the
    reason, and the exit code is 1. With --dry-run no input is needed.
    """
    shared.exclude_each_other(open=open_, no_report=no_report)
    if dry_run:
        early.check_model(
            model, offline=options.offline, revision=options.revision, needs_weights=False
        )
        return lambda _: _expected_mixers(model, options)
    early.check_call(model, prompt, options)
    if not no_report:
        early.check_folder(out, files=early.REPORT, models=[model])
        early.check_no_run(out)
        early.check_free(out)

    def work(run: Run) -> Answer:
        from dsf.cli import run_model
        from dsf.runtime.files import alone_in

        begun = time.perf_counter()
        files: dict[str, str] = {}
        with nullcontext() if no_report else alone_in(out):
            inspection = run_model.inspect_checkpoint(
                model, prompt, run, options, forecast=True, reported=not no_report
            )
            if not no_report:
                files = write_results(
                    inspection,
                    out,
                    facts={"Look at": "; ".join(found)} if (found := seen(inspection)) else {},
                    full_bytes=full_resolution << 20,
                )
        seconds = time.perf_counter() - begun

        def show() -> None:
            show_model(inspection)
            written = f"{files['report']} and {files['picture']}, after" if files else "After"
            print(f"{written} {seconds:.1f} s")

        failed = any(missed.formula is not None for missed in inspection.unsupported)
        return Answer(
            facts={**layer_facts(inspection), "files": files, "seconds": seconds},
            show=show,
            code=FAILED if failed else WELL,
            notes=run_model.notes_of(inspection),
            page=Path(files["report"]) if open_ else None,
        )

    return work


def _expected_mixers(model: str, options: shared.Inspecting) -> Answer:
    from dsf.inspection.support_table import EXACT, NO, support

    found = support(
        model, layers=options.layers, offline=options.offline, revision=options.revision
    )

    def show() -> None:
        rows = [(one.name, one.kind, one.mixer, one.exact, one.how) for one in found]
        print_table(("module", "class", "read as", "exact", "how"), rows)
        exact = sum(one.exact == EXACT for one in found)
        print(f"{len(found)} token mixers, {exact} read exactly")

    listed = [{name: escaped(part) for name, part in vars(one).items()} for one in found]
    is_read = any(one.exact != NO for one in found)
    facts = {"model": escaped(model), "mixers": listed}
    return Answer(facts=facts, show=show, code=WELL if is_read else LIMIT)


def write_results(
    inspection: "Inspection",
    folder: Path,
    *,
    title: str | None = None,
    facts: Mapping[str, str] | None = None,
    verdicts: "Table | None" = None,
    others: Sequence["Inspection"] = (),
    full_bytes: int | None = None,
) -> dict[str, str]:
    """Write ``report.html`` and ``maps.png``, and return their paths by name."""
    from dsf.report import draw_grid, show

    page = show(
        [inspection, *others],
        folder / "report.html",
        title=title,
        facts=facts or {},
        verdicts=[verdicts, *(None for _ in others)],
        full_resolution=full_bytes,
        progress=progress("drawing"),
    )
    picture = draw_grid(inspection, folder / "maps.png")
    return {"report": str(page), "picture": str(picture)}


def show_model(inspection: "Inspection") -> None:
    """Print one line for every model, the heads to look at, and what was not read."""
    models: dict[str, list[InspectedLayer]] = {}
    for layer in inspection:
        name, sign, _ = layer.name.partition(" · ")
        models.setdefault(name if sign else PurePath(inspection.model).name, []).append(layer)
    for name, layers in models.items():
        print(f"{escaped(name)}: {_in_one_line(layers)}")
    found = seen(inspection)
    if found is None:
        print("what the heads look at: dsf heads, or the report")
    elif found:
        print("\n  ".join(["look at these heads:", *found]))
    if inspection.unsupported:
        print_table(
            ("not read", "class", "reason"),
            [(missed.name, missed.kind, missed.reason) for missed in inspection.unsupported],
        )


def seen(inspection: "Inspection") -> list[str] | None:
    """The heads to look at, one line each; None where the search would take long."""
    maps = sum(prod(layer.system.batch) * layer.system.steps**2 for layer in inspection)
    if inspection.tokens is None or maps > MAX_SCORED_WEIGHTS:
        return None
    return named_heads(inspection.heads())


def _in_one_line(layers: Sequence["InspectedLayer"]) -> str:
    """``30 layers (30 SoftmaxAttention), 270 maps of 7 tokens, all reproduced to 3e-16``."""
    kinds = Counter(type(layer.mixer).__name__ for layer in layers)
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    maps = sum(prod(layer.system.batch) for layer in layers)
    steps = max(layer.system.steps for layer in layers)
    parts = sum(layer.is_part for layer in layers)
    in_part = f", {parts} of them in part" if parts else ""
    return (
        f"{len(layers)} layer{'s' * (len(layers) > 1)} ({listed}), {maps} maps of {steps} tokens, "
        f"all reproduced to {max(layer.formula for layer in layers):.0e}{in_part}"
    )


PLAIN_FACTS = (
    "family", "axes", "error", "formula", "rounding", "heads", "tolerance", "share", "columns",
)  # fmt: skip
"""What the answer has of a layer as it is there."""


def layer_facts(inspection: "Inspection") -> dict[str, Any]:
    return {
        "model": escaped(inspection.model),
        "layers": [
            {
                "name": escaped(layer.name, most=500),
                **{name: getattr(layer, name) for name in PLAIN_FACTS},
                "mixer": type(layer.mixer).__name__,
                "batch": layer.system.batch,
                "tokens": layer.system.steps,
                "compared_with": escaped(layer.compared_with, most=500),
                "exact": layer.is_exact,
                "checks": layer.checks.to_json(),
            }
            for layer in inspection
        ],
        "checks": inspection.checks.to_json(),
        "unsupported": [
            {
                "name": escaped(missed.name, most=500),
                "class": missed.kind,
                "reason": missed.reason,
                "formula": missed.formula,
            }
            for missed in inspection.unsupported
        ],
        "environment": inspection.environment,
        "forecast": None if inspection.forecast is None else inspection.forecast.facts(),
    }
