"""Rows of maps with one decay a token, by compiled loops: scores once for all heads of a group."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.evaluate.heads import TILE, Heads
from dsf.evaluate.place import Place, is_clean, spans_by_tile
from dsf.kernels import in_parallel


def head_rows(
    heads: Heads, borders: list[int], place: Place
) -> Iterator[Float[Tensor, "*batch rows columns"]]:
    """The rows between every two borders, written into what ``place`` gives."""
    kept = _Kept(heads)
    in_order = heads.order == tuple(range(len(heads.order)))
    columns, (groups, number) = heads.steps, heads.decay.shape[:2]
    for start, stop in pairwise(borders):
        if in_order:
            shape = (*heads.sizes, stop - start, columns)
            buffer, top = place.take(heads.read, shape, first=columns)  # the loops write zeros
            out = buffer.view(groups, number, -1, columns)
            kept.write(start, stop, out, top, clean=is_clean(place, buffer))
            yield buffer[..., top : top + stop - start, :]
        else:
            apart = heads.read.new_zeros(groups, number, stop - start, columns)
            kept.write(start, stop, apart, 0, clean=True)
            yield heads.in_batch(apart)


class _Kept:
    """Decays of all tokens, ordered for the loops."""

    def __init__(self, heads: Heads) -> None:
        from dsf.kernels.scalar_rows import suffixes

        # one layout of memory, one compilation
        self.heads = heads = replace(heads, feedthrough=heads.feedthrough.contiguous())
        self.factor = heads.decay.new_empty(heads.decay.shape)
        size = (*heads.decay.shape[:2], heads.tiles)
        self.product = torch.empty(size, dtype=torch.float64)
        for group in range(size[0]):
            parts = (heads.decay, heads.step, self.factor, self.product)
            suffixes(*(part[group].numpy() for part in parts))
        self.scores = heads.read.new_empty(TILE * heads.steps)

    def write(self, start: int, stop: int, out: Tensor, top: int, *, clean: bool) -> None:
        """Fill the rows of ``out`` from ``top`` on; where it is ``clean`` it holds zeros."""
        for group, maps in enumerate(out):
            for tile, first, last in spans_by_tile(start, stop, TILE):
                self._write_tile(group, tile, first, last, maps, top + first - start, clean)

    def _write_tile(
        self, group: int, tile: int, first: int, last: int, out: Tensor, top: int, clean: bool
    ) -> None:
        heads, rows = self.heads, last - first
        read, write = heads.read[group, first:last], heads.write[group, :last]
        scores = self.scores[: rows * last].view(rows, last)
        torch.mm(read, write.mT, out=scores)

        def share(some: slice) -> None:
            from dsf.kernels.scalar_rows import scratch_of, write_rows
            from dsf.kernels.sending import target_of

            parts = (heads.decay, heads.step, heads.feedthrough, self.factor, self.product)
            arrays = [part[group, some].numpy() for part in parts]
            target = target_of(out[some].numpy(), clean=clean)
            scratch = scratch_of(scores.numpy(), heads.tiles)
            write_rows(scores.numpy(), *arrays, tile, first, heads.before, scratch, target, top)

        shares = min(torch.get_num_threads(), out.shape[0])
        borders = [out.shape[0] * k // shares for k in range(shares + 1)]
        in_parallel(share, [slice(*span) for span in pairwise(borders)])
