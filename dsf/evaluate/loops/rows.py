"""Rows of maps by compiled CPU loops, for the two structures that they support.

- ``head_rows``: systems with one scalar decay a token, grouped as in :mod:`dsf.evaluate.heads`.
- ``diagonal_rows``: systems with a decay for every state, stored or lazily sampled.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import pad

from dsf.evaluate.heads import TILE, Heads
from dsf.evaluate.output_buffers import RowBuffer, flat, is_clean, spans_by_tile
from dsf.runtime.threads import in_parallel
from dsf.systems.coefficient import SampledWrite, dense_of
from dsf.systems.system import System
from dsf.systems.transition import Diagonal, SampledDiagonal


def head_rows(
    heads: Heads, boundaries: list[int], output: RowBuffer
) -> Iterator[Float[Tensor, "*batch rows columns"]]:
    """The rows between consecutive boundaries, written into the memory that ``output`` provides."""
    writer = _HeadWriter(heads)
    in_order = heads.order == tuple(range(len(heads.order)))
    columns, (groups, number) = heads.steps, heads.decay.shape[:2]
    for start, stop in pairwise(boundaries):
        if in_order:
            shape = (*heads.sizes, stop - start, columns)
            buffer, top = output.take(heads.read, shape, first=columns)  # the loops write zeros
            out = buffer.view(groups, number, -1, columns)
            writer.write(start, stop, out, top, clean=is_clean(output, buffer))
            yield buffer[..., top : top + stop - start, :]
        else:
            apart = heads.read.new_zeros(groups, number, stop - start, columns)
            writer.write(start, stop, apart, 0, clean=True)
            yield heads.in_batch(apart)


class _HeadWriter:
    """Products of decays inside every tile and over whole tiles, and the rows made from them."""

    def __init__(self, heads: Heads) -> None:
        from dsf.systems.kernels.scalar_rows import suffixes

        # a loop is compiled once for every memory layout
        self.heads = heads = replace(heads, feedthrough=heads.feedthrough.contiguous())
        self.factor = heads.decay.new_empty(heads.decay.shape)
        size = (*heads.decay.shape[:2], heads.tiles)
        self.product = torch.empty(size, dtype=torch.float64)
        for group in range(size[0]):
            parts = (heads.decay, heads.step, self.factor, self.product)
            suffixes(*(part[group].numpy() for part in parts))
        self.scores = heads.read.new_empty(TILE * heads.steps)

    def write(self, start: int, stop: int, out: Tensor, top: int, *, clean: bool) -> None:
        """Write the rows ``start`` to ``stop - 1`` to those of ``out`` from ``top`` on.

        ``clean`` says that ``out`` is filled with zeros.
        """
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
            from dsf.systems.kernels.scalar_rows import scratch_of, write_rows
            from dsf.systems.kernels.streaming_stores import target_of

            parts = (heads.decay, heads.step, heads.feedthrough, self.factor, self.product)
            arrays = [part[group, some].numpy() for part in parts]
            target = target_of(out[some].numpy(), clean=clean)
            scratch = scratch_of(scores.numpy(), heads.tiles)
            write_rows(scores.numpy(), *arrays, tile, first, heads.before, scratch, target, top)

        shares = min(torch.get_num_threads(), out.shape[0])
        boundaries = [out.shape[0] * k // shares for k in range(shares + 1)]
        in_parallel(share, [slice(*span) for span in pairwise(boundaries)])


if TYPE_CHECKING:
    from dsf.systems.kernels.diagonal_tiles import Given, Part, Scratch

DIAGONAL_TILE, LINE = 64, 64  # tokens of a tile; bytes of a cache line
EXACT = 3  # the first so many arrays of ``Scratch`` are in double precision


def is_diagonal(system: System) -> bool:
    """Whether the loops support this system: causal, real, one port, stored or sampled diagonal."""
    one_port = system.input_size == system.output_size == 1
    known = isinstance(system.A, Diagonal | SampledDiagonal) and system.state_size > 0
    return known and one_port and not (system.runs_backward or system.dtype.is_complex)


def diagonal_rows(
    system: System, boundaries: list[int], output: RowBuffer
) -> Iterator[Shaped[Tensor, "*batch rows columns"]]:
    """The rows between consecutive boundaries, written into the memory that ``output`` provides."""
    pieces = pieces_of(system, at_once=len(boundaries) == 2)
    like, columns = torch.empty(0, dtype=system.dtype), system.steps
    for start, stop in pairwise(boundaries):
        shape = (*system.batch, stop - start, columns)
        buffer, top = output.take(like, shape, first=columns)  # the loops write zeros themselves
        clean = is_clean(output, buffer)
        fill = partial(Piece.fill, start=start, stop=stop, out=flat(buffer), top=top, clean=clean)
        in_parallel(fill, pieces)
        yield buffer[..., top : top + stop - start, :]


def pieces_of(system: System, *, at_once: bool) -> list["Piece"]:
    """The batch split along its last axis into one piece for every thread."""
    size = system.batch[-1] if system.batch else 1
    shares = min(torch.get_num_threads(), size)
    boundaries = [size * k // shares for k in range(shares + 1)]
    found = []
    for number, index in enumerate(product(*(range(axis) for axis in system.batch[:-1]))):
        for first, last in pairwise(boundaries):
            some = (*index, slice(first, last)) if system.batch else (None,)
            found.append(Piece(system, some, number * size + first, at_once=at_once))
    return found


class Piece:
    """Some systems of a batch, and the matrices of the tiles so far, which later rows need."""

    def __init__(self, system: System, some: tuple[Any, ...], first: int, *, at_once: bool) -> None:
        from dsf.systems.kernels.diagonal_rows import Kept

        self.given = _given(system, some)
        self.span = slice(first, first + self.given.systems)
        self.like = torch.empty(0, dtype=system.dtype)
        width, tiles = self.given.width, -(-system.steps // DIAGONAL_TILE)
        few = 1 if at_once else self.given.systems
        self.kept = Kept(
            few,
            sent=self.like.new_empty(few * tiles * width * DIAGONAL_TILE).numpy(),
            product=np.empty(few * tiles * width),
            local=self.like.new_zeros(few * DIAGONAL_TILE * DIAGONAL_TILE).numpy(),
            reach=self.like.new_empty(few * DIAGONAL_TILE * width).numpy(),
        )
        self.entered = 0

    def fill(self, start: int, stop: int, out: Tensor, top: int, *, clean: bool) -> None:
        """Write the rows ``start`` to ``stop - 1`` to those of ``out`` from ``top`` on."""
        from dsf.systems.kernels.diagonal_rows import fill
        from dsf.systems.kernels.streaming_stores import target_of

        target = target_of(out[self.span].numpy(), clean=clean)
        fill(self.given, self.kept, self._scratch(), self.entered, start, stop, target, top)
        self.entered = -(-stop // DIAGONAL_TILE)

    def _scratch(self) -> "Scratch":
        """Scratch memory filled with zeros, so that unused rows of a tile stay finite."""
        from dsf.systems.kernels.diagonal_tiles import Scratch, sizes_of_scratch

        sizes = sizes_of_scratch(self.given.width, -(-self.given.steps // DIAGONAL_TILE))
        doubles = torch.empty(0, dtype=torch.float64)
        return Scratch(
            *(
                (doubles if k < EXACT else self.like).new_zeros(size).numpy()
                for k, size in enumerate(sizes)
            )
        )


def _given(system: System, some: tuple[Any, ...]) -> "Given":
    """The coefficients of ``some`` entries of the batch as flat tables."""
    from dsf.systems.kernels.diagonal_tiles import Given

    A, B, one = system.A, system.B, torch.ones((), dtype=system.dtype)
    gain = step = one.expand(*system.batch, system.steps)
    if isinstance(A, SampledDiagonal):
        decay, step = A.pole.unsqueeze(-2), A.step
    else:
        decay = cast("Diagonal", A).decay
    if isinstance(B, SampledWrite):
        write, gain = B.write, B.step
    else:
        write = dense_of(B).squeeze(-1)
    more = -system.state_size % (LINE // one.element_size())
    tables = {
        "decay": _table(decay[some], more),
        "read": _table(dense_of(system.C).squeeze(-2)[some], more),
        "write": _table(write.mT[some], -system.steps % DIAGONAL_TILE, more),
    }
    vectors = {
        "step": step[some],
        "gain": gain[some],
        "feedthrough": dense_of(system.feedthrough)[..., 0, 0][some],
    }
    return Given(
        **{name: _flat(part) for name, part in (tables | vectors).items()},
        sampled=isinstance(A, SampledDiagonal),
        before=system.reads_before_update,
        systems=len(step[some]),
        steps=system.steps,
        states=system.state_size,
        width=system.state_size + more,
    )


def _table(part: Tensor, *more: int) -> Tensor:
    """``part`` padded with zero columns (and rows); stored once where all systems share it."""
    part = part[:1] if part.stride(0) == 0 else part
    if any(more):
        part = pad(part, tuple(number for size in more for number in (0, size)))
    return part if part.stride(-1) == 1 else part.contiguous()


def _flat(part: Tensor) -> "Part":
    """The memory of a table of every system as a flat array, with the distances between rows."""
    from dsf.systems.kernels.diagonal_tiles import Part

    axes = zip(part.shape, part.stride(), strict=True)
    numbers = part.detach().as_strided((1 + sum((size - 1) * by for size, by in axes),), (1,))
    entry = part.stride(0) if len(part) > 1 else 0
    return Part(numbers.numpy(), entry, part.stride(1) if part.shape[1] > 1 else 0)
