"""What ``dsf intervene`` changes and looks at, checked before a model is loaded."""

from dataclasses import dataclass
from pathlib import Path

from dsf.cli.each import spread, spread_fields
from dsf.cli.edit_words import (
    Record,
    check_places,
    filed_edits,
    filed_runs,
    takes_from_other,
    typed_edit,
)
from dsf.cli.model_argument import check_call
from dsf.cli.options import Options
from dsf.cli.output_place import check_file
from dsf.cli.prompt import Prompt, check_position, targets

Target = tuple[int | str, int | str | None]


@dataclass(frozen=True)
class Change:
    """What is changed and what is looked at, as it was typed.

    Attributes:
        each: the fields of the edits of a sweep that name several things, one run for each.
        is_sweep: whether every edit has a run of its own.
        resume: the file of a sweep's finished runs.
    """

    text: str | None
    ids: str | None
    file: Path | None
    edit: list[str]
    edits: Path | None
    other_text: str | None
    other_ids: str | None
    target: str | None
    against: str | None
    top: int
    each: str | None = None
    is_sweep: bool = False
    resume: Path | None = None

    def check(self, model: str, position: int, options: Options) -> None:
        """Raises what is wrong, as far as it can be told without running the model."""
        other, tokens = self.other, self.tokens
        self._check_edits(other)
        if other is not None:
            other.check()
        facts = check_call(model, self.prompt, options)
        check_position(position, self.prompt.length)
        if other is not None:
            facts.check_input(other)
        for record in (record for run in self.runs for record in run):
            check_places(record, self.prompt.length, None if other is None else other.length)
        for option, token in zip(("--target", "--against"), tokens or (), strict=False):
            facts.check_token(option, token)

    def _check_edits(self, other: Prompt | None) -> None:
        if self.top < 1:
            raise ValueError(f"--top is {self.top}; it is how many rows are shown, at least 1.")
        self._check_sweep()
        records = [record for run in self.runs for record in run]
        if not records:
            raise ValueError(
                "needs an edit, such as --edit 'cut layers=*.3.* heads=2 read=5', or --edits with "
                "a file of them."
            )
        taking = any(map(takes_from_other, records))
        if taking != (other is not None):
            raise ValueError(
                "edits that take a map, values or a state from another run need its input as "
                "--other-text or --other-ids."
                if taking
                else "--other-text and --other-ids are for edits that take something from another "
                "run, such as 'state-from layers=3 token=9'. Leave them out."
            )

    def _check_sweep(self) -> None:
        if not self.is_sweep:
            for option, given in (("--each", self.each), ("--resume", self.resume)):
                if given is not None:
                    raise ValueError(f"{option} is for a sweep: add --sweep, or leave it out.")
            return
        if self.target is None:
            raise ValueError(
                "--sweep compares the effects of its edits on a logit, and needs its token as "
                "--target."
            )
        if self.resume is not None:
            check_file(self.resume, "--resume", makes_folder=True)

    @property
    def prompt(self) -> Prompt:
        return Prompt(self.text, self.ids, self.file)

    @property
    def other(self) -> Prompt | None:
        """The input of the other run."""
        if self.other_text is None and self.other_ids is None:
            return None
        if self.other_text is not None and self.other_ids is not None:
            raise ValueError("--other-text and --other-ids exclude each other: give one of them.")
        return Prompt(self.other_text, self.other_ids, None)

    @property
    def records(self) -> list[Record]:
        """The edits as JSON."""
        filed = [] if self.edits is None else filed_edits(self.edits)
        return [*map(typed_edit, self.edit), *filed]

    @property
    def runs(self) -> list[list[Record]]:
        """The edits of every run of a sweep as JSON; all in one without a sweep."""
        if not self.is_sweep:
            return [self.records]
        typed = [[typed_edit(words)] for words in self.edit]
        runs = [*typed, *([] if self.edits is None else filed_runs(self.edits))]
        fields = () if self.each is None else spread_fields(self.each)
        return [each for run in runs for each in spread(run, fields)]

    @property
    def tokens(self) -> Target | None:
        """Whose logits are compared; None for no one's."""
        if self.target is None:
            if self.against is not None:
                raise ValueError("--against needs a --target from which it is subtracted.")
            return None
        return targets(self.target, self.against, by_number=self.ids is not None)
