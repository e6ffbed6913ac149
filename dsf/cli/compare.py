"""``dsf compare``: two models on one input, layer by layer and head by head."""

from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer

from dsf.cli.command import Answer, Run, Work
from dsf.cli.early_checks import check_call
from dsf.cli.options import Inspecting, OtherInput, Prompt
from dsf.cli.terminal import print_table

if TYPE_CHECKING:
    from dsf.report.comparison import Comparison


def compare(
    model: Annotated[str, typer.Argument(help="The first model: a folder, GGUF file or hub id.")],
    other: Annotated[str, typer.Argument(help="The second; the same one to compare two inputs.")],
    *,
    prompt: Prompt,
    second: OtherInput,
    align: Annotated[bool, "Match the heads of a pair of layers by their maps."] = False,
    no_verdicts: Annotated[bool, "Leave out the verdicts of dsf check."] = False,
    options: Inspecting,
) -> Work:
    """Compare two checkpoints, fine-tunes or architectures on one input, or one on two inputs.

    Layers are paired by name where both models have the same names, and otherwise by depth. Shown
    are the distance of the maps of every pair (relative to the first), the mean of every measured
    quantity in both, and the verdicts that are not the same. Two trainings may learn the same heads
    in another order: --align matches them.

    Example: dsf compare BASE TUNED --text "The capital of France is" --align
    """
    prompt.check()
    pairs = ((model, prompt), (other, second.prompt() or prompt))
    for path, given in pairs:
        check_call(path, given, options)

    def work(run: Run) -> Answer:
        from dsf.cli.run_model import inspect_checkpoint, notes_of
        from dsf.report.comparison import compare as compare_inspections

        one, two = (inspect_checkpoint(path, given, run, options) for path, given in pairs)
        table = compare_inspections(one, two, align=align, verdicts=not no_verdicts)
        pairs_matched = [
            {"first": one.name, "second": other.name, "heads": partner and list(partner)}
            for (one, other), partner in zip(table.pairs, table.partners, strict=True)
        ]
        return Answer(
            facts={
                "models": [one.model, two.model],
                "pairs": pairs_matched,
                "flips": len(table.flips()),
                "records": table.to_json(),
            },
            show=lambda: _show(table),
            notes={found.model: notes_of(found)[""] for found in (one, two)},
        )

    return work


def _show(table: "Comparison") -> None:
    from dsf.inspection.results.table import Table
    from dsf.report.comparison import DISTANCE

    rows, changed = [], table.flips()
    for (one, other), partner in zip(table.pairs, table.partners, strict=True):
        records = table.where(layer=one.name, other=other.name)
        distances = [row.get("first") for row in records.where(quantity=DISTANCE)]
        known = [each for each in distances if each is not None]
        shown = f"{fmean(known):.3g}" if known else "different sizes"
        matched = "as they are" if partner is None else " ".join(map(str, partner))
        flips = len(changed.where(layer=one.name, other=other.name))
        rows.append((one.name, other.name, shown, matched, str(flips)))
    print_table(("layer", "compared with", "distance of maps", "heads", "verdicts changed"), rows)
    apart = (
        row | {"difference": abs(row["difference"])}
        for row in table
        if row.get("difference") is not None
    )
    columns = ("first", "second", "difference")
    means = [
        (row["quantity"], *(f"{row[name]:.4g}" for name in columns))
        for row in Table(tuple(apart)).mean()
    ]
    print_table(("quantity", "first", "second", "mean difference"), means)
    if changed:
        print(changed)
