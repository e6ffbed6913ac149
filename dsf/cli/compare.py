"""``dsf compare``: two models on one input, layer by layer and head by head."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from dsf.cli.answer import Answer, AsJson, Quiet, Verbose, give
from dsf.cli.model_argument import check_call
from dsf.cli.model_options import Ids, Offline, TextFile
from dsf.cli.options import Options
from dsf.cli.output_place import check_file
from dsf.cli.prompt import Prompt
from dsf.cli.threads import ThreadCount, Threads


@dataclass(frozen=True)
class Inputs:
    """The input of both models, as it was typed."""

    text: str | None
    ids: str | None
    file: Path | None
    other_text: str | None
    other_ids: str | None

    def check(self, models: tuple[str, str], options: Options) -> None:
        """Raises what is wrong, as far as it can be told without running a model."""
        for prompt in self.prompts:
            prompt.check()
        for model, prompt in zip(models, self.prompts, strict=True):
            check_call(model, prompt, options)

    @property
    def prompts(self) -> tuple[Prompt, Prompt]:
        """The inputs of the first and of the second."""
        first = Prompt(self.text, self.ids, self.file)
        if self.other_text is None and self.other_ids is None:
            return first, first
        if self.other_text is not None and self.other_ids is not None:
            raise ValueError("--other-text and --other-ids exclude each other: give one of them.")
        return first, Prompt(self.other_text, self.other_ids, None)


def run(
    model: Annotated[str, typer.Argument(help="The first model: a folder, GGUF file or hub id.")],
    other: Annotated[str, typer.Argument(help="The second; the same one to compare two inputs.")],
    *,
    text: Annotated[str | None, typer.Option(help="Text for the models' own tokenizers.")] = None,
    ids: Ids = None,
    file: TextFile = None,
    other_text: Annotated[
        str | None, typer.Option(help="Another text for the second model.")
    ] = None,
    other_ids: Annotated[
        str | None, typer.Option(help="Other token numbers for the second model.")
    ] = None,
    align: Annotated[
        bool,
        typer.Option("--align", help="Match the heads of a pair of layers by their maps."),
    ] = False,
    no_verdicts: Annotated[
        bool, typer.Option("--no-verdicts", help="Leave out the verdicts of dsf check.")
    ] = False,
    layers: Annotated[
        str | None,
        typer.Option(help='Which layers of both: "0:4", "2,5" or a pattern such as "*.3.*".'),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(help="Write every record to this file, for a spreadsheet.", readable=False),
    ] = None,
    offline: Offline = False,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare two checkpoints, fine-tunes or architectures on one input, or one on two inputs.

    Layers are paired by name where both models have the same names, and otherwise by depth. Shown
    are the distance of the maps of every pair (relative to the first), the mean of every measured
    quantity in both, and the verdicts that are not the same. Two trainings may learn the same heads
    in another order: --align matches them.

    Example: dsf compare BASE TUNED --text "The capital of France is" --align
    """
    inputs = Inputs(text, ids, file, other_text, other_ids)
    options = cache(lambda: Options(layers=layers, offline=offline))

    def check() -> None:
        inputs.check((model, other), options())
        if csv is not None:
            check_file(csv, "--csv")

    def work(count: ThreadCount) -> Answer:
        from dsf.cli.compared import comparison_facts, show_comparison
        from dsf.cli.loading_notes import notes_of, with_notes
        from dsf.cli.run_model import inspect_checkpoint
        from dsf.properties import compare
        from dsf.runtime.files import write_over

        one, two = (
            inspect_checkpoint(path, prompt, count, options())
            for path, prompt in zip((model, other), inputs.prompts, strict=True)
        )
        table = compare(one, two, align=align, verdicts=not no_verdicts)
        if csv is not None:
            write_over(csv, table.to_csv())
        facts = {"models": [one.model, two.model], **comparison_facts(table)}
        answer = Answer(facts, lambda: show_comparison(table))
        for inspection in (one, two) if model != other else (one,):
            answer = with_notes(answer, notes_of(inspection), of=inspection.model)
        return answer

    give(
        "compare",
        work,
        threads=threads,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
        check=check,
    )
