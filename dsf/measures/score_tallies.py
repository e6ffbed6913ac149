"""Tallies of maps that are exponentials of scores, a panel of scores at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import product

import numpy as np
import torch
from torch import Tensor

from dsf.composite import Operator
from dsf.evaluate.cache import whole_rows
from dsf.ingredients.pair_rows import ExponentialRows
from dsf.kernels import applies
from dsf.measures.tallies import KINDS, Tallied, Tally
from dsf.measures.walks import Walk, name_of

ROWS, ENTRIES = 64, 1 << 21  # of a panel: it has to stay in the cache


def scores_of(system: Operator) -> ExponentialRows | None:
    """The source of scores, where compiled loops may take them; else None."""
    rows = whole_rows(system)
    if not isinstance(rows, ExponentialRows):
        return None
    stored = [getattr(rows, field.name) for field in fields(rows)]
    parts = [part for part in stored if isinstance(part, Tensor)]
    real = not any(part.is_complex() for part in parts)
    return rows if real and applies(*parts, work=rows.shape.numel()) else None


class ScoreWalk(Walk):
    """One map of the batch after the other, its rows a panel at a time."""

    def __init__(self, source: ExponentialRows, wanted: Sequence[Tally]) -> None:
        from dsf.kernels.exponential_rows import BLOCK

        self.source, self.places = source, _places(wanted)
        self.widths, self.tokens = (
            np.array([each.token for each in self.places if each.name == name], dtype=int)
            for name in ("near", "on")
        )
        *self.batch, self.steps, _, columns = source.shape
        self.entries = list(product(*map(range, self.batch)))
        self.size = max(1, min(ROWS, ENTRIES // max(columns, 1)))
        self.panels = -(-self.steps // self.size)
        self.rows = len(self.entries) * self.steps
        shape = (len(self.entries), self.steps)
        self.numbers = {each: source.query.new_zeros(shape) for each in wanted}
        self.ahead = torch.arange(BLOCK, dtype=source.dtype).numpy()

    def blocks(self, first: int) -> Iterator[int]:
        begin = divmod(first, self.panels)
        for entry in range(begin[0], len(self.entries)):
            one = self.source.picked(self.entries[entry], torch.Size())
            for panel in range(begin[1] if entry == begin[0] else 0, self.panels):
                start, stop = panel * self.size, min(self.steps, (panel + 1) * self.size)
                tally = self._panel(one, start, stop)
                for each, numbers in self.numbers.items():
                    numbers[entry, start:stop] = torch.from_numpy(tally[self.places[each]])
                yield entry * self.steps + stop

    def _panel(self, one: ExponentialRows, start: int, stop: int) -> np.ndarray:
        """Every kind of sum of some rows of one map."""
        from dsf.kernels.exponential_rows import tally_exponentials

        scores, unread = one.logits(start, stop), one.unread()
        kinds = len(KINDS) - 1 + len(self.widths) + len(self.tokens)
        tally = np.empty((kinds, stop - start))
        tally_exponentials(
            scores.contiguous().numpy(),
            scores.amax(dim=-1).numpy(),
            -np.inf if unread is None else float(unread),
            self.ahead,
            start,
            one.is_causal,
            one.shape[-1],
            self.widths,
            self.tokens,
            tally,
        )
        return tally

    def found(self) -> dict[str, Tensor]:
        return {name_of(each): numbers for each, numbers in self.numbers.items()}

    def go_on(self, found: dict[str, Tensor]) -> None:
        for each, numbers in self.numbers.items():
            numbers.copy_(found[name_of(each)])

    def tallied(self, error: float) -> Tallied:
        shape = (*self.batch, self.steps)
        return Tallied({each: part.view(shape) for each, part in self.numbers.items()}, error)


def _places(wanted: Sequence[Tally]) -> dict[Tally, int]:
    """Where each stands among the sums of a row: kinds, then widths, then tokens."""
    single = {each: KINDS.index(each.name) for each in wanted if each.name not in ("near", "on")}
    many = [each for name in ("near", "on") for each in wanted if each.name == name]
    return single | {each: KINDS.index("near") + k for k, each in enumerate(many)}
