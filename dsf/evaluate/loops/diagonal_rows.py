"""Rows of maps whose states forget each at its own pace, by compiled loops."""

from collections.abc import Iterator
from functools import partial
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.nn.functional import pad

from dsf.coefficient import SampledWrite, dense_of
from dsf.evaluate.place import Place, flat, is_clean
from dsf.kernels import in_parallel
from dsf.system import System
from dsf.transition import Diagonal, SampledDiagonal

if TYPE_CHECKING:
    from dsf.kernels.diagonal_tiles import Given, Part, Scratch

TILE, LINE = 64, 64  # tokens; bytes of a line of the cache
EXACT = 3  # arrays of the scratch in double precision


def is_diagonal(system: System) -> bool:
    """Whether the loops know this system: causal, real, one port, a diagonal perhaps sampled."""
    one_port = system.input_size == system.output_size == 1
    known = isinstance(system.A, Diagonal | SampledDiagonal) and system.state_size > 0
    return known and one_port and not (system.runs_backward or system.dtype.is_complex)


def diagonal_rows(
    system: System, borders: list[int], place: Place
) -> Iterator[Shaped[Tensor, "*batch rows columns"]]:
    """The rows between every two borders, written into what ``place`` gives."""
    pieces = pieces_of(system, at_once=len(borders) == 2)
    like, columns = torch.empty(0, dtype=system.dtype), system.steps
    for start, stop in pairwise(borders):
        shape = (*system.batch, stop - start, columns)
        buffer, top = place.take(like, shape, first=columns)  # the loops write zeros themselves
        clean = is_clean(place, buffer)
        fill = partial(Piece.fill, start=start, stop=stop, out=flat(buffer), top=top, clean=clean)
        in_parallel(fill, pieces)
        yield buffer[..., top : top + stop - start, :]


def pieces_of(system: System, *, at_once: bool) -> list["Piece"]:
    """The batch cut along its last axis, a piece for every thread."""
    size = system.batch[-1] if system.batch else 1
    shares = min(torch.get_num_threads(), size)
    borders = [size * k // shares for k in range(shares + 1)]
    found = []
    for place, index in enumerate(product(*(range(axis) for axis in system.batch[:-1]))):
        for first, last in pairwise(borders):
            some = (*index, slice(first, last)) if system.batch else (None,)
            found.append(Piece(system, some, place * size + first, at_once=at_once))
    return found


class Piece:
    """A few systems of a batch, and what their tiles so far left for the rows to come."""

    def __init__(self, system: System, some: tuple[Any, ...], first: int, *, at_once: bool) -> None:
        from dsf.kernels.diagonal_rows import Kept

        self.given = _given(system, some)
        self.span = slice(first, first + self.given.systems)
        self.like = torch.empty(0, dtype=system.dtype)
        width, tiles = self.given.width, -(-system.steps // TILE)
        few = 1 if at_once else self.given.systems
        self.kept = Kept(
            few,
            sent=self.like.new_empty(few * tiles * width * TILE).numpy(),
            product=np.empty(few * tiles * width),
            local=self.like.new_zeros(few * TILE * TILE).numpy(),
            reach=self.like.new_empty(few * TILE * width).numpy(),
        )
        self.entered = 0

    def fill(self, start: int, stop: int, out: Tensor, top: int, *, clean: bool) -> None:
        """Write the rows ``start`` to ``stop - 1`` to those of ``out`` from ``top`` on."""
        from dsf.kernels.diagonal_rows import fill
        from dsf.kernels.sending import target_of

        target = target_of(out[self.span].numpy(), clean=clean)
        fill(self.given, self.kept, self._scratch(), self.entered, start, stop, target, top)
        self.entered = -(-stop // TILE)

    def _scratch(self) -> "Scratch":
        """Zeros, so that what is computed beside the rows asked for stays finite."""
        from dsf.kernels.diagonal_tiles import Scratch, sizes_of_scratch

        sizes = sizes_of_scratch(self.given.width, -(-self.given.steps // TILE))
        doubles = torch.empty(0, dtype=torch.float64)
        return Scratch(
            *(
                (doubles if place < EXACT else self.like).new_zeros(size).numpy()
                for place, size in enumerate(sizes)
            )
        )


def _given(system: System, some: tuple[Any, ...]) -> "Given":
    """The coefficients of ``some`` entries of the batch as flat tables."""
    from dsf.kernels.diagonal_tiles import Given

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
        "write": _table(write.mT[some], -system.steps % TILE, more),
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
    """Rows side by side, with more columns, and rows, of zeros; once where all systems share it."""
    part = part[:1] if part.stride(0) == 0 else part
    if any(more):
        part = pad(part, tuple(number for size in more for number in (0, size)))
    return part if part.stride(-1) == 1 else part.contiguous()


def _flat(part: Tensor) -> "Part":
    """The memory behind a table of every system, and how far its rows are apart."""
    from dsf.kernels.diagonal_tiles import Part

    places = zip(part.shape, part.stride(), strict=True)
    numbers = part.detach().as_strided((1 + sum((size - 1) * by for size, by in places),), (1,))
    entry = part.stride(0) if len(part) > 1 else 0
    return Part(numbers.numpy(), entry, part.stride(1) if part.shape[1] > 1 else 0)
