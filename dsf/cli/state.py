"""``dsf state``: what the recurrent states of a model hold, and why they lose the rest."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dsf.cli.command import Answer, Run, Work
from dsf.cli.early_checks import check_call, check_folder, check_free
from dsf.cli.options import Checkpoint, Inspecting, Prompt, place, typed_by, whole_number
from dsf.cli.terminal import print_table

if TYPE_CHECKING:
    from dsf.report.plot import StateReport

WHY = {
    "little": "little is lost",
    "decays": "it forgets because it decays",
    "overwrites": "it forgets because it is overwritten",
    "full": "it forgets because it is full",
}


def state(
    model: Checkpoint,
    *,
    prompt: Prompt,
    maps: Annotated[
        int, whole_number("How many heads or channels of a layer, spread evenly.", least=1)
    ] = 32,
    out: Annotated[
        Path | None,
        typed_by(place, "Write one figure for each layer into this folder.", metavar="FOLDER"),
    ] = None,
    options: Inspecting,
) -> Work:
    """Say what the recurrent state of every layer of MODEL holds after an input.

    \b
      kept      share of the tokens' signals that can be read off the last state
      decayed   share that has decayed
      removed   share that later tokens overwrote
      taken     share that cannot be distinguished from what other tokens left (the state is full)
      length    whether the norm of the state grows, fades or stays over the second half

    The shares are means over tokens and heads, for a state that is known up to the rounding of
    bfloat16. Layers that keep every token, such as attention, have no state of fixed size.

    Example: dsf state FOLDER --file book.txt --out figures
    """
    check_call(model, prompt, options)
    if out is not None:
        check_folder(out, models=[model])
        check_free(out)

    def work(run: Run) -> Answer:
        from dsf.cli.run_model import inspect_checkpoint, notes_of
        from dsf.report.plot import report_state
        from dsf.runtime.files import alone_in

        inspection = inspect_checkpoint(model, prompt, run, options)
        found = report_state(inspection, maps=maps)
        with nullcontext() if out is None else alone_in(out):
            written = [] if out is None else found.save(out)
        return Answer(
            facts={**found.to_json(), "written": [str(path) for path in written]},
            show=lambda: _show(found, written),
            notes=notes_of(inspection),
        )

    return work


def _show(report: "StateReport", written: Sequence[Path]) -> None:
    print_table(
        ("layer", "states", "kept", "decayed", "removed", "taken", "in use", "length", ""),
        [
            (
                layer.name,
                str(layer.states),
                *(f"{share:.2f}" for share in layer.shares),
                f"{layer.occupancy[-1]:.2f}",
                layer.length,
                WHY[layer.loss],
            )
            for layer in report.layers
        ],
    )
    for name, reason in report.without:
        print(f"no state: {name}: {reason}")
    for path in written:
        print(f"wrote {path}")
