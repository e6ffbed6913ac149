"""``dsf heads``: what every head of a model looks at, by name."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from dsf.cli.command import Answer, Run, Work
from dsf.cli.early_checks import check_call
from dsf.cli.options import MAX_DRAWN, Checkpoint, Inspecting, Prompt, Top, whole_number
from dsf.cli.terminal import print_table
from dsf.report.escaping import escaped

if TYPE_CHECKING:
    from dsf.inspection import Inspection
    from dsf.inspection.results.table import Record, Table

NUMBERS = ("value", "net", "control")
MIN_EXCESS = 0.1
"""Share of the weight above the control from which a head is named."""


def heads(
    model: Checkpoint,
    *,
    random_repeat: Annotated[
        int | None,
        whole_number(
            "The input is N random tokens, and the same N tokens once more.",
            least=2,
            most=MAX_DRAWN,
        ),
    ] = None,
    prompt: Prompt,
    top: Top = 3,
    options: Inspecting,
) -> Work:
    """Score what every head (or channel) of MODEL looks at, and name the strongest of each kind.

    \b
      previous_token    the token just before
      first_token       the first token, by later ones (a sink)
      self_token        the token itself
      duplicate_token   earlier copies of the token
      induction         what followed earlier copies of the token

    A score is the share of the absolute weight, from 0 to 1; "net" is its signed part, so that a
    head that subtracts has a negative one. The control is what chance gives: for the first three
    scores a head that weighs all tokens alike, for the others the same head where the tokens stand
    in random order.

    Example: dsf heads FOLDER --random-repeat 50
    """
    given = replace(prompt, repeat=random_repeat)
    if given.is_missing:
        raise ValueError(
            "expected an input, got none. Give --text, --ids, --file, or --random-repeat 50 for a "
            "random sequence that is repeated, which shows induction."
        )
    check_call(model, given, options)

    def work(run: Run) -> Answer:
        from dsf.cli.run_model import inspect_opened, open_checkpoint
        from dsf.inspection.results.measurements import strongest

        opened = open_checkpoint(model, given, run, options)
        inspection = inspect_opened(opened, options)
        table = inspection.heads(opened.ids)
        facts: dict[str, Any] = {
            "model": escaped(inspection.model),
            "heads": table.to_json(),
            "strongest": strongest(table).to_json(),
            "unsupported": [
                {"name": escaped(missed.name, most=500), "reason": missed.reason}
                for missed in inspection.unsupported
            ],
        }
        return Answer(facts=facts, show=lambda: _show(inspection, table, top), notes=opened.notes)

    return work


def _show(inspection: "Inspection", table: "Table", top: int) -> None:
    from dsf.inspection.results.measurements import excess, strongest

    named = strongest(table)
    rows = []
    for best in named:
        found = [row for row in table.where(score=best["score"]) if row["value"] == row["value"]]
        found.sort(key=excess, reverse=True)
        rows += [
            (row["score"], _where(row), *(f"{row[name]:.3f}" for name in NUMBERS))
            for row in found[:top]
        ]
    print_table(("score", "head", *NUMBERS), rows)
    print("\n".join(named_heads(table)) or "no head exceeds its control")
    for row in table:
        if "note" in row:
            print(f"no scores: {row['layer']}: {row['note']}")
    for missed in inspection.unsupported:
        print(f"not read: {missed.name}: {missed.reason}")


def named_heads(table: "Table") -> list[str]:
    """One line for every score with a head that exceeds its control, such as ``induction: ...``."""
    from dsf.inspection.results.measurements import excess, strongest

    return [
        f"{best['score'].replace('_', ' ')}: {escaped(_where(best), most=500)} "
        f"({best['value']:.2f}, control {best['control']:.2f})"
        for best in strongest(table)
        if excess(best) >= MIN_EXCESS
    ]


def _where(row: "Record") -> str:
    """``model.layers.1.self_attn head 0``."""
    fixed = ("layer", "score", *NUMBERS)
    return " ".join([row["layer"], *(f"{k} {v}" for k, v in row.items() if k not in fixed)])
