"""Reductions computed from whole rows, for any map: by compiled loops or, with gradients, torch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dsf.evaluate import Rows
from dsf.measures.fold import all_safe
from dsf.measures.row_reductions import BY_LAG, KINDS, NORM, RowReduction
from dsf.runtime.threads import in_parallel, shares
from dsf.systems.kernels import applies

# What the compiled loop computes of every row, in its order; then "near" and "on" by their tokens.
SINGLE = (*KINDS[:-1], "sum", "ahead")
# What is known of rows without their weights.
KNOWN = ("written", "behind", "columns")


class Collected:
    """Reductions of the blocks of rows that were added so far, first to last.

    Compiled loops have to be worth it for ``entries``, those of all blocks together where known.
    """

    def __init__(self, wanted: Sequence[RowReduction], entries: int = 0) -> None:
        self.done, self.entries = 0, entries
        self.parts: dict[RowReduction, list[Tensor]] = {each: [] for each in wanted}

    def add(self, rows: Rows) -> None:
        wanted = list(self.parts)
        if wanted and _compiles(rows, wanted, self.entries):
            results = _compiled(rows, wanted)
        else:
            results = {each: each.look(rows) for each in wanted}
        for each, found in results.items():
            part = self.parts[each]
            if each.adds and part:
                missing = found.shape[-1] - part[0].shape[-1]
                part[0] = torch.nn.functional.pad(part[0], (0, missing)) + found
            else:
                part.append(found)
        self.done += rows.weights.shape[-2]

    def joined(self) -> dict[RowReduction, Tensor]:
        return {each: torch.cat(part, dim=-1) for each, part in self.parts.items()}


def _compiles(rows: Rows, wanted: Sequence[RowReduction], entries: int) -> bool:
    weights, written, read = rows.weights, rows.written, rows.read
    work = max(entries, weights.numel())
    if weights.is_complex() or 0 in weights.shape or not applies(weights, work=work):
        return False
    first, columns = int(written[0]), len(read)
    one_port = torch.equal(read, torch.arange(columns)) and torch.equal(
        written, torch.arange(first, first + len(written))
    )
    by_lag = any(each.adds for each in wanted)
    return one_port and not (by_lag and first + len(written) > columns)


def _compiled(rows: Rows, wanted: Sequence[RowReduction]) -> dict[RowReduction, Tensor]:
    from dsf.systems.kernels.entry_sums import BLOCK, WIDTHS, sum_entries

    *batch, count, columns = rows.weights.shape
    weights = rows.weights.detach().reshape(-1, count, columns).numpy()
    near, on = ([each for each in wanted if each.name == name] for name in ("near", "on"))
    index = {each: SINGLE.index(each.name) for each in wanted if each.name in SINGLE}
    index |= {each: WIDTHS + k for k, each in enumerate([*near, *on])}
    widths, tokens = (np.array([each.token for each in part], dtype=int) for part in (near, on))
    statistics = np.empty((len(weights), WIDTHS + len(near) + len(on), count))
    energy = statistics[:, KINDS.index("norm")]
    by_lag = np.zeros((len(weights), columns if BY_LAG in wanted else 0))
    lags, first = np.arange(BLOCK, dtype=float), int(rows.written[0])

    def sum_some(part: slice) -> None:
        asked, into = (lags, first, widths, tokens), (statistics[part], by_lag[part])
        sum_entries(weights[part], *asked, *into)

    in_parallel(sum_some, shares(len(weights)))
    np.sqrt(energy, out=energy)
    found = {
        each: torch.from_numpy(statistics[:, at]).to(rows.weights.dtype).view(*batch, count)
        for each, at in index.items()
    }
    if BY_LAG in wanted:
        reached = first + count
        sums = torch.from_numpy(by_lag[:, ::-1][:, :reached].copy()).to(rows.weights.dtype)
        entries = (reached - torch.arange(reached).clamp(min=first)).to(sums.dtype)
        found[BY_LAG] = torch.stack([sums, entries.expand_as(sums)]).view(2, *batch, reached)
    if NORM in found:
        largest = statistics[:, KINDS.index("largest")]
        found[NORM] = found[NORM] if all_safe(largest) else NORM.look(rows)
    return found | {each: each.look(rows) for each in wanted if each.name in KNOWN}
