"""``dsf heads``: what every head of a model looks at, by name."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

from dsf.cli.answer import Answer, AsJson, Quiet, Verbose, give
from dsf.cli.model_argument import check_call
from dsf.cli.model_options import (
    Checkpoint,
    Ids,
    Layers,
    NumberType,
    Offline,
    Revision,
    Text,
    TextFile,
)
from dsf.cli.options import Options
from dsf.cli.prompt import Prompt
from dsf.cli.threads import ThreadCount, Threads
from dsf.cli.typed_numbers import whole_option


@dataclass(frozen=True)
class Sought:
    """The input and how many heads are shown, as it was typed."""

    text: str | None
    ids: str | None
    file: Path | None
    repeat: int | None
    top: int

    def check(self, model: str, options: Options) -> None:
        """Raises what is wrong, as far as it can be told without running the model."""
        if (self.text, self.ids, self.file, self.repeat) == (None,) * 4:
            raise ValueError(
                "needs an input: --text, --ids, --file, or --random-repeat 50 for a random "
                "sequence that comes twice, which shows induction."
            )
        if self.top < 1:
            raise ValueError(f"--top is {self.top}; it is how many heads are shown, at least 1.")
        check_call(model, self.prompt, options)

    @property
    def prompt(self) -> Prompt:
        return Prompt(self.text, self.ids, self.file, self.repeat)


def run(
    model: Checkpoint,
    *,
    random_repeat: Annotated[
        int | None,
        whole_option(help="The input is N random tokens, and the same N tokens once more."),
    ] = None,
    text: Text = None,
    ids: Ids = None,
    file: TextFile = None,
    layers: Layers = None,
    top: Annotated[int, whole_option(help="How many heads are listed for each score.")] = 3,
    dtype: NumberType = None,
    offline: Offline = False,
    revision: Revision = None,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
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
    sought = Sought(text, ids, file, random_repeat, top)
    asked = cache(lambda: Options(dtype=dtype, layers=layers, offline=offline, revision=revision))

    def work(count: ThreadCount) -> Answer:
        from dsf.cli.loading_notes import with_notes
        from dsf.cli.run_model import inspect_opened, open_checkpoint
        from dsf.cli.scored import head_facts, show_heads

        opened = open_checkpoint(model, sought.prompt, count, asked())
        inspection = inspect_opened(opened, asked())
        table = inspection.heads(opened.ids)
        facts = head_facts(inspection, table)
        answer = Answer(facts, lambda: show_heads(inspection, table, top))
        return with_notes(answer, opened.loaded.notes)

    give(
        "heads",
        work,
        threads=threads,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
        check=lambda: sought.check(model, asked()),
    )
