"""A sweep over a checkpoint, for a terminal and for JSON."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dsf.cli.attributed import target_in_words
from dsf.cli.change import Change, Target
from dsf.cli.edit_words import OTHER
from dsf.cli.options import Options
from dsf.cli.progress import part, stage
from dsf.cli.run_model import Opened, inspect_opened, open_checkpoint
from dsf.cli.terminal import print_table
from dsf.cli.threads import ThreadCount
from dsf.inspection import Inspection
from dsf.interventions.edits import Edit, from_json
from dsf.interventions.sweeps import Pace, Question, Swept, swept
from dsf.report.escaping import escaped


@dataclass(frozen=True)
class SweptCheckpoint:
    """The effects of many edits on one logit.

    Attributes:
        runs: the edits of every run.
        found: their effects.
        opened: the model and its input.
        tokens: whose logits are compared.
        position: after which token.
        top: how many runs are shown.
    """

    runs: Sequence[Sequence[Edit]]
    found: Swept
    opened: Opened
    tokens: Target
    position: int
    top: int

    def show(self) -> None:
        """The runs with the largest effects, and the rate."""
        clean = self.found.clean[0].item()
        name = self.opened.names[0][self.position]
        words = target_in_words(self.tokens)
        print(f"{words} after token {self.position} {name!r}, clean {clean:+.4g}")
        effects = self.found.effects[:, 0].tolist()
        order = sorted(range(len(effects)), key=lambda at: -_size(effects[at]))
        print_table(
            ("effect", "changed", "edits"),
            [
                (
                    f"{effects[at]:+.4g}",
                    f"{clean + effects[at]:+.4g}",
                    "; ".join(map(repr, self.runs[at])),
                )
                for at in order[: self.top]
            ],
        )
        print(f"{len(effects)} runs, the strongest first; {self._made}")

    def facts(self) -> dict[str, Any]:
        """The same as JSON, of all runs and in their order."""
        clean = self.found.clean[0].item()
        return {
            "model": escaped(self.opened.loaded.identity),
            "position": self.position,
            "target": escaped(target_in_words(self.tokens)),
            "clean": _number(clean),
            "runs": [
                {
                    "edits": [edit.to_json() for edit in run],
                    "effect": _number(effect),
                    "changed": _number(clean + effect),
                }
                for run, effect in zip(self.runs, self.found.effects[:, 0].tolist(), strict=True)
            ],
            "made": self.found.made,
            "rate": self.found.rate,
        }

    @property
    def _made(self) -> str:
        earlier = len(self.runs) - self.found.made
        if not self.found.made:
            return "all of them were in the file"
        told = f"{self.found.rate:.2g} for each second"
        return f"{told}, {earlier} of them were in the file" if earlier else told


def _size(effect: float) -> float:
    return math.inf if math.isnan(effect) else abs(effect)


def _number(value: float) -> float | str:
    """JSON has no number for what is not finite."""
    return value if math.isfinite(value) else str(value)


def sweep_checkpoint(
    path: str, asked: Change, position: int, threads: ThreadCount, options: Options
) -> SweptCheckpoint:
    """Load a checkpoint and run it with every edit by itself.

    Raises:
        LoadError: if the checkpoint is refused.
        ValueError: if a prompt, the position, an edit, a token or the file does not suit.
        InspectionError: if an edited layer cannot be read, or is not reproduced.
    """
    assert asked.tokens is not None  # noqa: S101  # a sweep without a target was refused
    others = [token for token in asked.tokens if isinstance(token, str)]
    if asked.other is not None:
        others += asked.other.texts
    opened = open_checkpoint(path, asked.prompt, threads, options, others=others)
    place = opened.place(position)
    runs = [[from_json(record) for record in run] for run in asked.runs]
    sources: dict[str, Inspection] = {}
    if asked.other is not None:
        sources[OTHER] = inspect_opened(opened.on(asked.other), options)
    stage(f"running {len(runs)} edits")

    def told(pace: Pace) -> None:
        part(f"{pace.done} of {pace.count} edits, {pace.rate:.2g}/s", pace.done, pace.count)

    found = swept(
        opened.loaded.model,
        (),
        {"input_ids": opened.ids},
        edits=runs,
        question=Question(*asked.tokens, position=place),
        sources=sources,
        resume=asked.resume,
        told=told,
        tokenizer=opened.loaded.tokenizer,
    )
    return SweptCheckpoint(runs, found, opened, asked.tokens, place, asked.top)
