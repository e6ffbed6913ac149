"""Responses and map rows by compiled CPU loops, which take plain arrays.

- ``memory_response``: matrix memories, with one decay a token, one a state, or a delta rule.
- ``modes_response``: time-invariant complex diagonals that take the real part, such as S4D.
- ``complex_response``: time-invariant complex states and real signals: S4, S5, the linear
  recurrent unit. The drive of a block of tokens is one product of matrices, a loop takes the states
  through the block, and the response is another product.
- ``channels_of``: the channels of a selective state space (Mamba), each with its own diagonal.
- ``head_rows``: systems with one scalar decay a token, grouped as in :mod:`dsf.evaluate.heads`.
- ``diagonal_rows``: systems with a decay for every state, stored or lazily sampled.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import pad

from dsf.evaluate.arguments import state_at_start
from dsf.evaluate.heads import TILE, Heads
from dsf.evaluate.invariant import first_token, varying
from dsf.evaluate.output_buffers import RowBuffer, flat, is_clean, spans_by_tile
from dsf.runtime.threads import in_parallel
from dsf.systems.coefficient import Coefficient, SampledWrite, dense_of
from dsf.systems.kernels import applies
from dsf.systems.system import System
from dsf.systems.transition import Diagonal, DiagonalPlusLowRank, SampledDiagonal, ScaledIdentity

if TYPE_CHECKING:
    from dsf.systems.kernels.diagonal_rows import Given, Part, Scratch

BLOCK = 2**17
"""Numbers of a block: drives, or states, of some tokens and sequences, which stay in the cache."""

SPAN = 128
"""Maximum number of tokens of a block."""


def complex_response(
    system: System, signal: Shaped[Tensor, "*batch time input channel"]
) -> tuple[Tensor, Tensor] | None:
    """The real response of a forward system and its final state; None where no loop applies.

    Args:
        signal: of complex type with imaginary parts of zero, as evaluators are given it.
    """
    if not (system.takes_real_part and system.dtype.is_complex and signal.is_complex()):
        return None
    if not isinstance(system.A, Diagonal | DiagonalPlusLowRank) or varying(system) is not None:
        return None
    A, B, C, D = first_token(system, signal.dtype)
    if isinstance(A, DiagonalPlusLowRank):
        if A.left.shape[-1] != 1:
            return None
        parts = [part[..., 0, :] for part in (A.decay, A.left[..., 0], A.right[..., 0])]
    else:
        parts = [cast("Diagonal", A).decay[..., 0, :]]
    entering = state_at_start(system, signal)
    if not applies(*parts, B, C, D, entering, signal, work=signal.numel() * system.state_size):
        return None
    return _Sequences(system, signal, parts, (B, C, D), entering).answered()


class _Sequences:
    """Every entry of the batch and every column of its signal as a sequence of its own."""

    def __init__(
        self,
        system: System,
        signal: Tensor,
        parts: list[Tensor],
        ports: tuple[Tensor, ...],
        entering: Tensor,
    ) -> None:
        self.batch, self.columns = signal.shape[:-3], signal.shape[-1]
        self.before, self.steps = system.reads_before_update, system.steps
        self.parts = [part.expand(*self.batch, -1).flatten(0, -2) for part in parts]
        self.ports = [part.expand(*self.batch, *part.shape[-2:]).flatten(0, -3) for part in ports]
        self.given = signal.real.movedim(-1, -3).flatten(0, -3)  # sequence time input
        self.entering = entering.mT.flatten(0, -2)  # sequence state
        self.response = self.given.new_empty(*self.given.shape[:2], system.output_size)
        self.leaving = torch.empty_like(self.entering)

    def answered(self) -> tuple[Tensor, Tensor]:
        count = len(self.given)
        width = 2 * self.parts[0].shape[-1]
        share = min(max(1, BLOCK // (SPAN * width)), -(-count // torch.get_num_threads()))
        in_parallel(lambda first: self._some(first, first + share), range(0, count, share))
        response = self.response.unflatten(0, (*self.batch, self.columns)).movedim(-3, -1)
        return response, self.leaving.unflatten(0, (*self.batch, self.columns)).mT

    def _some(self, first: int, last: int) -> None:
        from dsf.systems.kernels.complex_states import ComplexStates

        some = slice(first, last)
        given, response = self.given[some], self.response[some]
        entries = torch.arange(len(self.given))[some] // self.columns
        B, C, D = (part[entries] for part in self.ports)
        states = ComplexStates(
            self.parts[0][entries], self.entering[some], *(part[entries] for part in self.parts[1:])
        )
        drives = states.padded(B.mT).contiguous()  # sequence input twice_width
        reads = states.padded(C.conj().resolve_conj()).mT.contiguous()
        span = max(1, BLOCK // (len(given) * drives.shape[-1]))
        room = given.new_empty(len(given), min(span, self.steps), drives.shape[-1])
        for start in range(0, self.steps, span):
            stop = min(start + span, self.steps)
            block = given[:, start:stop]
            drive = room[:, : stop - start]
            if stop - start < room.shape[1]:
                drive = torch.empty_like(drive, memory_format=torch.contiguous_format)
            if drives.shape[1] == 1:
                torch.mul(block, drives, out=drive)
            else:
                torch.matmul(block, drives, out=drive)
            states.scan(drive, before=self.before)
            torch.baddbmm(block @ D.real.mT, drive, reads, out=response[:, start:stop])
        self.leaving[some] = states.reached


# With fewer columns the loops would leave most SIMD lanes unused.
FEW_COLUMNS = 16


class BareArrays(NamedTuple):
    """The coefficients of a system with one input and one output, as tensors.

    ``B_t = gain_t write_t`` and ``C_t = read_t``. For a delta rule, ``left_t look_tᵀ`` is the
    low-rank term of A_t: the memory is read at ``look`` before it is overwritten. What the loops
    are given has no ``left`` where that is ``-write``.
    """

    decay: Tensor
    gain: Tensor
    write: Tensor
    read: Tensor
    look: Tensor | None = None
    left: Tensor | None = None


def memory_response(
    system: System, signal: Tensor, *, out: Tensor | None = None
) -> tuple[Tensor, Tensor] | None:
    """The response of a forward system and its final state; None where no loop applies."""
    if signal.shape[-1] < FEW_COLUMNS or system.input_size * system.output_size != 1:
        return None
    parts, entering = bare_arrays(system), state_at_start(system, signal)
    D = system.feedthrough
    if parts is None or isinstance(D, Coefficient) or not system.batch:
        return None
    work = signal.numel() * system.state_size
    tensors = [part for part in parts if part is not None]
    if not applies(*tensors, D, signal, entering, work=work):
        return None
    if parts.left is not None:
        if torch.equal(-parts.left, parts.write):
            parts = parts._replace(left=None)
        elif parts.decay.ndim < parts.write.ndim:  # one decay a token
            parts = parts._replace(decay=parts.decay.unsqueeze(-1).expand_as(parts.write))
    bare = signal.squeeze(-2)
    response = output_memory(bare.shape, bare, None if out is None else out.squeeze(-2))
    return _recalled(parts, D[..., 0, 0], bare, entering, response, system.reads_before_update)


def output_memory(shape: torch.Size, like: Tensor, memory: Tensor | None) -> Tensor:
    """Contiguous memory for a response: the given tensor if shape and type fit, else a new one."""
    if memory is None or memory.shape != shape or not memory.is_contiguous():
        return like.new_empty(shape)
    alike = memory.dtype == like.dtype and memory.device == like.device
    return memory.detach() if alike else like.new_empty(shape)


def bare_arrays(system: System) -> BareArrays | None:
    """The coefficients of a system that the loops and kernels support; None for other systems."""
    A, B, C = system.A, system.B, system.C
    if isinstance(C, Coefficient):
        return None
    read = C.squeeze(-2)
    if isinstance(A, (ScaledIdentity, Diagonal)):
        if isinstance(B, SampledWrite):
            return BareArrays(A.decay, B.step, B.write, read)
        if isinstance(B, Tensor):
            return BareArrays(A.decay, _ones(B), B.squeeze(-1), read)
    if isinstance(A, DiagonalPlusLowRank) and A.left.shape[-1] == 1 and isinstance(B, Tensor):
        decay = A.decay[..., 0] if A.decay.stride(-1) == 0 else A.decay
        look, left = A.right.squeeze(-1), A.left.squeeze(-1)
        return BareArrays(decay, _ones(B), B.squeeze(-1), read, look, left)
    return None


def _ones(B: Tensor) -> Tensor:
    return B.new_ones(()).expand(B.shape[:-2])


def _recalled(
    parts: BareArrays, D: Tensor, signal: Tensor, entering: Tensor, response: Tensor, before: bool
) -> tuple[Tensor, Tensor]:
    from dsf.systems.kernels.memories import Memories, recall

    fixed = D.stride(-1) == 0 or D.shape[-1] == 1
    skip = D[..., 0] if fixed else torch.zeros_like(D[..., 0])
    leaving = torch.empty_like(entering, memory_format=torch.contiguous_format)
    for one in product(*map(range, signal.shape[:-3])):
        write, read = parts.write[one], parts.read[one]
        if parts.look is None and write.stride(0) == read.stride(0) == 0:
            write, read = write[:1], read[:1]
        look = write[:0] if parts.look is None else parts.look[one]
        left = write[:0] if parts.left is None else parts.left[one]
        memories = Memories(parts.decay[one], parts.gain[one], write, read, look, left, signal[one])
        leaving[one] = recall(memories, skip[one], entering[one], response[one], before=before)
    if not fixed:
        response += D.unsqueeze(-1) * signal
    return response.unsqueeze(-2), leaving


def modes_response(
    system: System,
    signal: Shaped[Tensor, "*batch time input channel"],
    *,
    out: Tensor | None = None,
) -> Shaped[Tensor, "*batch time output channel"] | None:
    """The real part of the response to a real signal; None where the loop does not apply.

    The signal is not converted to complex numbers, which would take longer than the loop itself.
    """
    if not (system.takes_real_part and system.dtype.is_complex) or signal.is_complex():
        return None
    from_rest = system.initial is None and not (system.runs_backward or system.reads_before_update)
    one_port = system.input_size * system.output_size == 1
    if not (from_rest and one_port) or signal.dtype != system.dtype.to_real():
        return None
    A, B, C, D = first_token(system, system.dtype)
    decay, work = A.diagonal(), signal.numel() * system.state_size
    if decay is None or not (applies(decay, B, C, work=work) and applies(signal, work=work)):
        return None
    if varying(system) is not None:
        return None
    from dsf.systems.kernels.modes import modes_response

    columns = signal.squeeze(-2).mT
    flat = columns.reshape(-1, system.steps)

    def of_columns(part: Tensor) -> Tensor:
        """``part`` of every batch entry, repeated for each of its signal columns."""
        return part.expand(*columns.shape[:-1], part.shape[-1]).reshape(len(flat), -1)

    decay, weight, skip = map(of_columns, (decay, B.mT * C, D.real))
    memory = None if out is None or out.ndim != signal.ndim else out.squeeze(-2).mT.flatten(0, -2)
    response = output_memory(flat.shape, flat, memory)
    modes_response(decay, weight, skip.squeeze(-1), flat, into=response)
    return response.view(columns.shape).mT.unsqueeze(-2)


class Channels(NamedTuple):
    """A selective diagonal for every channel, and its signal; channels are the last batch axis."""

    step: Shaped[Tensor, "*batch time"]
    pole: Shaped[Tensor, "*batch state"]
    gain: Shaped[Tensor, "*batch time"]
    write: Shaped[Tensor, "*batch time state"]
    read: Shaped[Tensor, "*batch time state"]
    feedthrough: Shaped[Tensor, "*batch time"]
    signal: Shaped[Tensor, "*batch time"]
    entering: Shaped[Tensor, "*batch state"]

    @property
    def share(self) -> bool:
        """Whether all channels share write and read, and each uses one step for decay and input."""
        together = _is_shared(self.write, -3) and _is_shared(self.read, -3)
        return together and _is_same(self.step, self.gain)

    @property
    def has_fixed_skip(self) -> bool:
        """Whether the feedthrough is the same for all tokens."""
        return self.feedthrough.stride(-1) == 0 or self.feedthrough.shape[-1] == 1

    @property
    def skip(self) -> Shaped[Tensor, "*batch"]:
        """The feedthrough where it is the same for all tokens, else zeros."""
        first = self.feedthrough[..., 0]
        return first if self.has_fixed_skip else torch.zeros_like(first)


def channels_of(
    system: System, signal: Shaped[Tensor, "*batch time input channel"]
) -> Channels | None:
    """``system`` and its signal as channels; None if it is not of this form."""
    A, B, C, D = system.A, system.B, system.C, system.feedthrough
    if not (isinstance(A, SampledDiagonal) and isinstance(B, SampledWrite)):
        return None
    if isinstance(C, Coefficient) or isinstance(D, Coefficient) or system.reads_before_update:
        return None
    if not system.batch or signal.shape[-1] != 1 or C.shape[-2] != 1:
        return None
    values, start = signal[..., 0, 0], state_at_start(system, signal)[..., 0]
    return Channels(A.step, A.pole, B.step, B.write, C.squeeze(-2), D[..., 0, 0], values, start)


def _is_shared(part: Tensor, axis: int) -> bool:
    return part.shape[axis] == 1 or part.stride(axis) == 0


def _is_same(one: Tensor, other: Tensor) -> bool:
    alike = one.data_ptr() == other.data_ptr() and one.stride() == other.stride()
    return alike or torch.equal(one, other)


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
            from dsf.systems.kernels.registers import target_of
            from dsf.systems.kernels.scalar_rows import scratch_of, write_rows

            parts = (heads.decay, heads.step, heads.feedthrough, self.factor, self.product)
            arrays = [part[group, some].numpy() for part in parts]
            target = target_of(out[some].numpy(), clean=clean)
            scratch = scratch_of(scores.numpy(), heads.tiles)
            write_rows(scores.numpy(), *arrays, tile, first, heads.before, scratch, target, top)

        shares = min(torch.get_num_threads(), out.shape[0])
        boundaries = [out.shape[0] * k // shares for k in range(shares + 1)]
        in_parallel(share, [slice(*span) for span in pairwise(boundaries)])


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
        from dsf.systems.kernels.registers import target_of

        target = target_of(out[self.span].numpy(), clean=clean)
        fill(self.given, self.kept, self._scratch(), self.entered, start, stop, target, top)
        self.entered = -(-stop // DIAGONAL_TILE)

    def _scratch(self) -> "Scratch":
        """Scratch memory filled with zeros, so that unused rows of a tile stay finite."""
        from dsf.systems.kernels.diagonal_rows import Scratch, sizes_of_scratch

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
    from dsf.systems.kernels.diagonal_rows import Given

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
    from dsf.systems.kernels.diagonal_rows import Part

    axes = zip(part.shape, part.stride(), strict=True)
    numbers = part.detach().as_strided((1 + sum((size - 1) * by for size, by in axes),), (1,))
    entry = part.stride(0) if len(part) > 1 else 0
    return Part(numbers.numpy(), entry, part.stride(1) if part.shape[1] > 1 else 0)
