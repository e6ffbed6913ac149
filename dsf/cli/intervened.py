"""An intervention on a checkpoint, for a terminal and for JSON."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dsf.cli.attributed import target_in_words
from dsf.cli.change import Change, Target
from dsf.cli.edit_words import OTHER
from dsf.cli.options import Options
from dsf.cli.run_model import Opened, inspect_opened, open_checkpoint
from dsf.cli.terminal import print_table
from dsf.cli.threads import ThreadCount
from dsf.inspection import Inspection
from dsf.interventions import Intervention, intervene
from dsf.interventions.edits import from_json
from dsf.loading import token_texts
from dsf.report.escaping import escaped

ONE_ROW = 2
"""The number of axes of a classifier's logits: one row for every sample."""


@dataclass(frozen=True)
class Intervened:
    """A changed run and what is looked at in it.

    Attributes:
        result: both runs.
        opened: the model and its input.
        tokens: whose logits are compared; None for no one's.
        position: after which token.
        top: how many next tokens are shown.
    """

    result: Intervention
    opened: Opened
    tokens: Target | None
    position: int
    top: int

    def show(self) -> None:
        """The edits, the likeliest tokens of both runs, the effect."""
        for edit in self.result.edits:
            print(edit)
        print(f"edited: {', '.join(layer.name for layer in self.result.layers)}")
        print(f"after token {self.position} {self.opened.names[0][self.position]!r}")
        rows = zip(self._likeliest(self._clean), self._likeliest(self._changed), strict=True)
        print_table(
            ("clean", "probability", "changed", "probability"),
            [(*_cells(clean), *_cells(changed)) for clean, changed in rows],
        )
        effect = self._effect
        if effect is not None:
            print(
                f"{effect['target']}: clean {effect['clean']:+.4g}, changed "
                f"{effect['changed']:+.4g}, effect {effect['effect']:+.4g}"
            )

    def facts(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "model": escaped(self.opened.loaded.identity),
            "edits": [edit.to_json() for edit in self.result.edits],
            "edited": [escaped(layer.name, most=500) for layer in self.result.layers],
            "position": self.position,
            "clean": self._likeliest(self._clean),
            "changed": self._likeliest(self._changed),
            "effect": self._effect,
        }

    @property
    def _clean(self) -> Tensor:
        return self.result.clean

    @property
    def _changed(self) -> Tensor:
        return self.result.output

    @property
    def _effect(self) -> dict[str, Any] | None:
        if self.tokens is None:
            return None
        effect = self.result.effect(*self.tokens, position=self.position).item()
        clean = replace(self.result, output=self._clean, clean=torch.zeros_like(self._clean))
        before = clean.effect(*self.tokens, position=self.position).item()
        return {
            "target": escaped(target_in_words(self.tokens)),
            "clean": before,
            "changed": before + effect,
            "effect": effect,
        }

    def _likeliest(self, logits: Tensor) -> list[dict[str, Any]]:
        row = logits[0] if logits.ndim == ONE_ROW else logits[0, self.position]
        shares, ids = row.double().softmax(dim=-1).topk(min(self.top, row.numel()))
        tokenizer = self.opened.loaded.tokenizer
        numbers = ids.tolist()
        has_names = tokenizer is not None and logits.ndim != ONE_ROW
        names = token_texts(tokenizer, numbers) if has_names else list(map(str, numbers))
        return [
            {"token": escaped(name), "id": number, "probability": share}
            for name, number, share in zip(names, numbers, shares.tolist(), strict=True)
        ]


def _cells(token: dict[str, Any]) -> tuple[str, str]:
    return repr(token["token"]), f"{token['probability']:.3g}"


def intervene_checkpoint(
    path: str, asked: Change, position: int, threads: ThreadCount, options: Options
) -> Intervened:
    """Load a checkpoint and run it with and without the edits.

    Raises:
        LoadError: if the checkpoint is refused.
        ValueError: if a prompt, the position, an edit or a token does not suit the model.
        InspectionError: if an edited layer cannot be read, or is not reproduced.
    """
    others = [token for token in asked.tokens or () if isinstance(token, str)]
    if asked.other is not None:
        others += asked.other.texts
    opened = open_checkpoint(path, asked.prompt, threads, options, others=others)
    place = opened.place(position)
    edits = [from_json(record) for record in asked.records]
    sources: dict[str, Inspection] = {}
    if asked.other is not None:
        sources[OTHER] = inspect_opened(opened.on(asked.other), options)
    result = intervene(opened.loaded.model, edits=edits, sources=sources, input_ids=opened.ids)
    if result.clean.ndim not in (ONE_ROW, ONE_ROW + 1):
        raise ValueError(
            f"{opened.loaded.identity} puts out a tensor with the sizes "
            f"{tuple(result.clean.shape)}, which are no logits. Use dsf.intervene in Python."
        )
    result = replace(result, tokenizer=opened.loaded.tokenizer)
    return Intervened(result, opened, asked.tokens, place, asked.top)
