"""``dsf attribute``: which tokens, layers and edges made a model give a token its logit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from dsf.cli.answer import Answer, AsJson, Quiet, Verbose, give
from dsf.cli.model_argument import check_call
from dsf.cli.model_options import Checkpoint, Ids, Offline, Revision, Text, TextFile
from dsf.cli.options import Options
from dsf.cli.prompt import Prompt, check_position, targets
from dsf.cli.threads import ThreadCount, Threads
from dsf.cli.typed_numbers import whole_option


@dataclass(frozen=True)
class Question:
    """What is attributed, as it was typed."""

    text: str | None
    ids: str | None
    file: Path | None
    target: str
    against: str | None
    position: int
    top: int
    paths: int

    def check(self, model: str, options: Options) -> None:
        """Raises what is wrong, as far as it can be told without running the model."""
        wanted, against = self.tokens
        if self.top < 1:
            raise ValueError(f"--top is {self.top}; it is how many rows are shown, at least 1.")
        if self.paths < 0:
            raise ValueError(f"--paths is {self.paths}; it is how many are shown, 0 for none.")
        facts = check_call(model, self.prompt, options)
        check_position(self.position, self.prompt.length)
        facts.check_token("--target", wanted)
        facts.check_token("--against", against)

    @property
    def prompt(self) -> Prompt:
        return Prompt(self.text, self.ids, self.file)

    @property
    def tokens(self) -> tuple[int | str, int | str | None]:
        """The target, and what it is compared with."""
        return targets(self.target, self.against, by_number=self.ids is not None)


def run(
    model: Checkpoint,
    *,
    wanted: Annotated[
        str,
        typer.Option(
            "--target",
            help='The token whose logit is explained: its text, such as " Paris" with its space, '
            "or with --ids its number.",
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(help="A second token; then the difference of the two logits is explained."),
    ] = None,
    text: Text = None,
    ids: Ids = None,
    file: TextFile = None,
    position: Annotated[
        int,
        whole_option(help="At which token the logits are read, from 0; -1 is the last one."),
    ] = -1,
    top: Annotated[int, whole_option(help="How many tokens and how many edges are listed.")] = 10,
    paths: Annotated[
        int,
        whole_option(
            help="Also search for this many of the strongest paths, from a token over edges to the "
            "logit. Takes longer."
        ),
    ] = 0,
    coefficients: Annotated[
        bool,
        typer.Option(
            "--coefficients",
            help="Also show on which queries, keys, steps or decays of every layer the logit "
            "hangs: gradients, which are no parts of a sum.",
        ),
    ] = False,
    offline: Offline = False,
    revision: Revision = None,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Share the logit of a token among the input tokens, layers and edges of MODEL.

    The shares are exact: those of the tokens and the remainder (biases) sum to the logit in
    float64, and so do those of the embedding, the layers and the remainder. An edge is what one
    token reads from another in one layer. All is of this run, with attention weights, decays,
    gates and norms held; "dsf intervene" asks what happens without an edge.

    A difference says more than a logit: give the token that the model might have said instead as
    --against.

    Example: dsf attribute FOLDER --text "The capital of France is" --target " Paris" --against
    " London"
    """
    asked = Question(text, ids, file, wanted, against, position, top, paths)
    options = Options(offline=offline, revision=revision)

    def work(count: ThreadCount) -> Answer:
        from dsf.cli.attributed import attribute_checkpoint
        from dsf.cli.loading_notes import with_notes

        found = attribute_checkpoint(
            model, asked.prompt, asked.tokens, position, paths, count, options,
            coefficients=coefficients,
        )  # fmt: skip
        answer = Answer(found.facts(top), lambda: found.show(top))
        return with_notes(answer, found.opened.loaded.notes)

    give(
        "attribute",
        work,
        threads=threads,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
        check=lambda: asked.check(model, options),
    )
