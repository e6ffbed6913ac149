"""Rows of maps whose states forget each at its own pace, by compiled loops."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.nn.functional import pad

from dsf.coefficient import Matrices, dense_of
from dsf.evaluate.place import Place, flat, spans_by_tile
from dsf.kernels import in_parallel
from dsf.system import System
from dsf.transition import Diagonal, SampledDiagonal

TILE, FOURS = 64, 4
CACHED = 2**16  # decays of a tile in one piece of the batch: they stay in the cache


def is_diagonal(system: System) -> bool:
    """Whether the loops know this system: causal, real, one port, a diagonal perhaps sampled."""
    one_port = system.input_size == system.output_size == 1
    known = isinstance(system.A, Diagonal | SampledDiagonal) and system.state_size > 0
    return known and one_port and not (system.runs_backward or system.dtype.is_complex)


def diagonal_rows(
    system: System, borders: list[int], place: Place
) -> Iterator[Shaped[Tensor, "*batch rows columns"]]:
    """The rows between every two borders, written into what ``place`` gives."""
    pieces = pieces_of(system)
    like = torch.empty(0, dtype=system.dtype)
    for start, stop in pairwise(borders):
        buffer, top = place.take(like, (*system.batch, stop - start, system.steps), first=start)
        fill = partial(Piece.fill, start=start, stop=stop, out=flat(buffer), top=top)
        in_parallel(fill, pieces)
        yield buffer[..., top : top + stop - start, :]


def pieces_of(system: System) -> list["Piece"]:
    """The batch in pieces along its last axis, none too large for the cache."""
    if not system.batch:
        return [Piece(_picked(system, (), torch.Size()), 0)]
    *leading, last = system.batch
    few = max(1, CACHED // (TILE * system.state_size))
    found = []
    for place, index in enumerate(product(*(range(size) for size in leading))):
        for first in range(0, last, few):
            part = slice(first, min(first + few, last))
            size = torch.Size([part.stop - part.start])
            found.append(Piece(_picked(system, (*index, part), size), place * last + first))
    return found


def _picked(system: System, index: tuple[Any, ...], batch: torch.Size) -> System:
    def some(part: Matrices) -> Matrices:
        return part[index] if isinstance(part, Tensor) else part.picked(index, batch)

    return replace(
        system,
        A=system.A.picked(index, batch),
        B=some(system.B),
        C=some(system.C),
        D=some(system.feedthrough),
        initial=None,
    )


class Piece:
    """A few systems of a batch: their current tile as four matrices, and what earlier ones left."""

    def __init__(self, system: System, first: int) -> None:
        self.system, self.entries = system, system.batch.numel()
        self.span = slice(first, first + self.entries)
        self.states = system.state_size + -system.state_size % FOURS
        self.tiles = -(-system.steps // TILE)
        like = torch.empty(0, dtype=system.dtype)
        self.sent = like.new_empty(self.entries, self.tiles, self.states * TILE).numpy()
        self.product = np.empty((self.entries, self.tiles, self.states))
        self.local = like.new_empty(self.entries, TILE * TILE).numpy()
        self.reach = like.new_empty(self.entries, TILE * self.states).numpy()
        self.entered = 0

    def fill(self, *, start: int, stop: int, out: Tensor, top: int) -> None:
        """Write the rows ``start`` to ``stop - 1`` to those of ``out`` from ``top`` on."""
        from dsf.kernels.diagonal_rows import copy_own, read_kept

        own = out[self.span].numpy()
        for tile, first, last in spans_by_tile(start, stop, TILE):
            self.enter(tile)
            skip, rows = first - tile * TILE, last - first
            line = top + first - start
            read_kept(self.reach, self.product, self.sent, tile, skip, rows, own, line)
            copy_own(self.local, tile, skip, rows, own, line)

    def enter(self, tile: int) -> None:
        """Fold all tiles up to ``tile``."""
        from dsf.kernels.diagonal_rows import fold_tile

        while self.entered <= tile:
            decay, write, read, feedthrough = self._arrays(self.entered)
            sent = np.empty_like(self.sent[:, 0])
            passed = np.empty_like(self.product[:, 0])
            before = self.system.reads_before_update
            fold_tile(decay, write, read, before, self.local, self.reach, sent, passed)
            self.local[:, :: TILE + 1] += feedthrough
            self.sent[:, self.entered], self.product[:, self.entered] = sent, passed
            self.entered += 1

    def _arrays(self, tile: int) -> list[np.ndarray]:
        """Decays, writes, reads and feedthrough of a full tile of tokens and states."""
        start, stop = tile * TILE, min((tile + 1) * TILE, self.system.steps)
        part = self.system.window(start, stop)
        ahead = (0, start + TILE - stop)
        missing = (0, self.states - self.system.state_size, *ahead)
        vectors = (part.A.diagonal(), dense_of(part.B).squeeze(-1), dense_of(part.C).squeeze(-2))
        folded = [self._full(vector, missing) for vector in vectors if vector is not None]
        return [*folded, self._full(dense_of(part.feedthrough)[..., 0, 0], ahead)]

    def _full(self, part: Tensor, missing: tuple[int, ...]) -> np.ndarray:
        axes = len(missing) // 2
        part = part.reshape(self.entries, *part.shape[part.ndim - axes :])
        return (pad(part, missing) if any(missing) else part).contiguous().numpy()
