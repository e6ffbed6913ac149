"""Responses and map rows by compiled CPU loops, which take plain arrays.

Writers of rows write one block of rows of a map after the other, from the first to the last, each
to the first rows of the contiguous memory that they are given. ``clean`` says that this is zero
wherever it has not been written.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import pad

from dsf.evaluate.arguments import Answer, Response, Signal, state_at_start
from dsf.evaluate.invariant import first_token, varying
from dsf.runtime.threads import in_parallel, shares
from dsf.systems.coefficient import Coefficient, SampledWrite, stored_in
from dsf.systems.composite import Operator
from dsf.systems.kernels import applies
from dsf.systems.system import System
from dsf.systems.transition import Diagonal, DiagonalPlusLowRank, SampledDiagonal, ScaledIdentity

RowWriter = Callable[..., None]


class Ports(NamedTuple):
    """``B_t = gain_t write_t``, ``C_t = read_t`` and D_t of a system with one port on each side."""

    gain: Shaped[Tensor, "*batch time"]
    write: Shaped[Tensor, "*batch time state"]
    read: Shaped[Tensor, "*batch time state"]
    feedthrough: Shaped[Tensor, "*batch time"]


def ports_of(system: System) -> Ports | None:
    """The ports, without a copy; None where a system has others or computes them."""
    B, C, D = system.B, system.C, system.feedthrough
    if system.input_size * system.output_size != 1:
        return None
    if isinstance(C, Coefficient) or isinstance(D, Coefficient):
        return None
    read, through = C.squeeze(-2), D[..., 0, 0]
    if isinstance(B, SampledWrite):
        return Ports(B.step, B.write, read, through)
    if isinstance(B, Coefficient):
        return None
    return Ports(B.new_ones(()).expand(B.shape[:-2]), B.squeeze(-1), read, through)


def stored_parts(system: System) -> list[Tensor] | None:
    """All tensors of a real forward system with one port a side and a diagonal A; else None."""
    A, ports = system.A, ports_of(system)
    if ports is None or not isinstance(A, Diagonal | SampledDiagonal | ScaledIdentity):
        return None
    if system.runs_backward or system.dtype.is_complex or system.state_size == 0:
        return None
    return [*ports, *stored_in(A)]


def fixed_skip(
    feedthrough: Shaped[Tensor, "*batch time"],
) -> tuple[Shaped[Tensor, "*batch"], bool]:
    """The feedthrough of all tokens, and True; zeros and False where it changes with time."""
    first = feedthrough[..., 0]
    is_fixed = feedthrough.stride(-1) == 0 or feedthrough.shape[-1] == 1
    return (first if is_fixed else torch.zeros_like(first)), is_fixed


TILE = 64


@dataclass(frozen=True)
class Heads:
    """A causal system with one decay a token and one port, its batch arranged as groups of heads.

    The heads of a group share ``read`` and ``write``: they are the last axes of the ``batch``.
    ``before`` is the system's ``reads_before_update``.
    """

    read: Float[Tensor, "group time state"]
    write: Float[Tensor, "group time state"]
    decay: Float[Tensor, "group head time"]
    step: Float[Tensor, "group head time"]
    feedthrough: Float[Tensor, "group head time"]
    before: bool
    batch: torch.Size

    @property
    def steps(self) -> int:
        return self.read.shape[-2]

    @property
    def tiles(self) -> int:
        return -(-self.steps // TILE)

    def in_batch(self, part: Tensor) -> Tensor:
        """``part`` with its axes ``group head`` replaced by the batch axes of the system."""
        return part.reshape((*self.batch, *part.shape[2:]))


def heads_of(system: Operator) -> Heads | None:
    if not isinstance(system, System) or not isinstance(system.A, ScaledIdentity):
        return None
    parts = stored_parts(system)
    if parts is None or len({part.dtype for part in parts}) > 1:
        return None
    gain, write, read, through, decay = parts
    axes = len(system.batch)
    while axes and (
        system.batch[axes - 1] == 1 or read.stride(axes - 1) == write.stride(axes - 1) == 0
    ):
        axes -= 1
    groups, shared = system.batch[:axes].numel(), (0,) * (len(system.batch) - axes)

    def by_group(vectors: Tensor) -> Tensor:
        one = vectors[(slice(None),) * axes + shared]
        return one.reshape(groups, *vectors.shape[-2:])

    def by_head(numbers: Tensor) -> Tensor:
        spread = numbers.expand(*system.batch, system.steps)
        return spread.reshape(groups, system.batch[axes:].numel(), system.steps)

    return Heads(
        by_group(read),
        by_group(write),
        by_head(decay).contiguous(),
        by_head(gain).contiguous(),
        by_head(through),
        before=system.reads_before_update,
        batch=system.batch,
    )


BLOCK = 2**19
"""Numbers of a block: drives, or states, of some tokens and sequences, which stay in the cache."""

SPAN = 128
"""Maximum number of tokens of a block."""


def complex_response(system: System, signal: Signal) -> Answer | None:
    """The real response of a forward system and its final state; None where no loop applies."""
    if not (system.takes_real_part and system.dtype.is_complex and signal.is_complex()):
        return None
    if not isinstance(system.A, Diagonal | DiagonalPlusLowRank) or varying(system) is not None:
        return None
    A, *ports = first_token(system, signal.dtype)
    parts = [A.decays()[..., 0, :]]
    if isinstance(A, DiagonalPlusLowRank):
        if A.left.shape[-1] != 1:
            return None
        parts = [part[..., 0, :] for part in (A.decay, A.left[..., 0], A.right[..., 0])]
    start = state_at_start(system, signal)
    if not applies(*parts, *ports, start, signal, work=signal.numel() * system.state_size):
        return None
    from dsf.systems.kernels.recurrences import scan_complex
    from dsf.systems.kernels.registers import WIDE

    batch, columns = signal.shape[:-3], signal.shape[-1]
    given = signal.real.movedim(-1, -3).flatten(0, -3)  # sequence time input
    wide = system.state_size + -system.state_size % WIDE

    def split(part: Tensor) -> Tensor:
        """Real and imaginary parts of as many states as the loop takes at once."""
        return pad(torch.stack((part.real, part.imag), dim=-2), (0, wide - part.shape[-1]))

    state = split(start.mT.flatten(0, -2)).double()
    table = [split(part.expand(*batch, -1).flatten(0, -2)).double() for part in parts]
    B, C, D = (part.expand(*batch, *part.shape[-2:]).flatten(0, -3) for part in ports)
    response = given.new_empty(*given.shape[:2], system.output_size)
    size = 2 * wide
    share = min(max(1, BLOCK // (SPAN * size)), -(-len(given) // torch.get_num_threads()))
    span = max(1, BLOCK // (share * size))

    def follow(first: int) -> None:
        some = slice(first, first + share)
        entries = torch.arange(len(given))[some] // columns
        mine = torch.cat([part[entries] for part in table], dim=-2).numpy()
        drives, reads = (split(part[entries]).flatten(-2) for part in (B.mT, C.conj()))
        reads, passed, moved = reads.mT, D[entries].real.mT, state[some].numpy()
        for begin in range(0, system.steps, span):
            block = given[some, begin : begin + span]
            drive = block * drives if drives.shape[1] == 1 else block @ drives
            scan_complex(mine, moved, drive.numpy(), system.reads_before_update)
            out = response[some, begin : begin + span]
            torch.baddbmm(block @ passed, drive, reads, out=out)

    in_parallel(follow, range(0, len(given), share))
    found = response.unflatten(0, (*batch, columns)).movedim(-3, -1)
    reached = torch.complex(*state[..., : system.state_size].unbind(-2)).to(signal.dtype)
    return found, reached.unflatten(0, (*batch, columns)).mT


# With fewer columns the loops would leave most SIMD lanes unused.
FEW_COLUMNS = 16


def memory_response(system: System, signal: Tensor, *, out: Tensor | None = None) -> Answer | None:
    """The same of real systems whose channels share a diagonal, or one of rank one more.

    Of a delta rule ``left_t look_tᵀ`` is the low-rank term of A_t: the memory is read at ``look``
    before it is overwritten. The loops are given no ``left`` where that is ``-write``.
    """
    ports, A = ports_of(system), system.A
    if ports is None or signal.shape[-1] < FEW_COLUMNS or not system.batch:
        return None
    low: list[Tensor] = []
    if isinstance(A, DiagonalPlusLowRank) and A.left.shape[-1] == 1:
        low = [A.right.squeeze(-1), A.left.squeeze(-1)]
    elif not isinstance(A, ScaledIdentity | Diagonal):
        return None
    entering, work = state_at_start(system, signal), signal.numel() * system.state_size
    if not applies(A.decay, *ports, *low, signal, entering, work=work):
        return None
    if low and torch.equal(-low[1], ports.write):
        del low[1]
    from dsf.systems.kernels.memories import Memories, recall

    bare, before = signal.squeeze(-2), system.reads_before_update
    response = output_memory(None if out is None else out.squeeze(-2), bare)
    skip, is_fixed = fixed_skip(ports.feedthrough)
    leaving = torch.empty_like(entering, memory_format=torch.contiguous_format)
    for one in product(*map(range, bare.shape[:-3])):
        write, read = ports.write[one], ports.read[one]
        if not low and write.stride(0) == read.stride(0) == 0:
            write, read = write[:1], read[:1]
        look = low[0][one] if low else write[:0]
        left = low[1][one] if len(low) > 1 else write[:0]
        memories = Memories(A.decay[one], ports.gain[one], write, read, look, left, bare[one])
        leaving[one] = recall(memories, skip[one], entering[one], response[one], before=before)
    if not is_fixed:
        response += ports.feedthrough.unsqueeze(-1) * bare
    return response.unsqueeze(-2), leaving


def output_memory(memory: Tensor | None, like: Tensor) -> Tensor:
    """The given memory of a response if a loop can write into it, else new memory of its shape."""
    if memory is None or memory.dtype != like.dtype or not memory.is_contiguous():
        return torch.empty_like(like, memory_format=torch.contiguous_format)
    return memory.detach()


def modes_response(system: System, signal: Signal, *, out: Tensor | None = None) -> Response | None:
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
    from dsf.systems.kernels.recurrences import modes_response

    columns = signal.squeeze(-2).mT
    flat = columns.reshape(-1, system.steps)

    def of_columns(part: Tensor) -> Tensor:
        return part.expand(*columns.shape[:-1], part.shape[-1]).reshape(len(flat), -1)

    decay, weight, skip = map(of_columns, (decay, B.mT * C, D.real))
    memory = None if out is None else out.squeeze(-2).mT.flatten(0, -2)
    response = output_memory(memory, flat)
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
        together = _is_shared(self.write) and _is_shared(self.read)
        return together and _is_same(self.step, self.gain)


def channels_of(system: System, signal: Signal) -> Channels | None:
    ports, A = ports_of(system), system.A
    if not (isinstance(A, SampledDiagonal) and isinstance(system.B, SampledWrite)):
        return None
    if ports is None or system.reads_before_update:
        return None
    if not system.batch or signal.shape[-1] != 1:
        return None
    values, start = signal[..., 0, 0], state_at_start(system, signal)[..., 0]
    return Channels(A.step, A.pole, *ports, values, start)


def _is_shared(part: Tensor) -> bool:
    return part.shape[-3] == 1 or part.stride(-3) == 0


def _is_same(one: Tensor, other: Tensor) -> bool:
    alike = one.data_ptr() == other.data_ptr() and one.stride() == other.stride()
    return alike or torch.equal(one, other)


class HeadWriter:
    """Products of decays inside every tile and over whole tiles, and the rows made from them."""

    def __init__(self, heads: Heads) -> None:
        from dsf.systems.kernels.scalar_tiles import suffixes

        # a loop is compiled once for every memory layout
        self.heads = heads = replace(heads, feedthrough=heads.feedthrough.contiguous())
        self.factor = heads.decay.new_empty(heads.decay.shape)
        size = (*heads.decay.shape[:2], heads.tiles)
        self.product = torch.empty(size, dtype=torch.float64)
        for group in range(size[0]):
            parts = (heads.decay, heads.step, self.factor, self.product)
            suffixes(*(part[group].numpy() for part in parts))
        self.scores = heads.read.new_empty(TILE * heads.steps)

    def __call__(self, start: int, stop: int, out: Tensor, *, clean: bool = False) -> None:
        """Write the rows ``start`` to ``stop - 1``."""
        groups = out.view(*self.heads.decay.shape[:2], *out.shape[-2:])
        for group, maps in enumerate(groups):
            for tile in range(start // TILE, -(-stop // TILE)):
                first, last = max(start, tile * TILE), min(stop, (tile + 1) * TILE)
                self._write_tile(group, tile, first, last, maps, first - start, clean)

    def _write_tile(
        self, group: int, tile: int, first: int, last: int, out: Tensor, top: int, clean: bool
    ) -> None:
        heads, rows = self.heads, last - first
        read, write = heads.read[group, first:last], heads.write[group, :last]
        scores = self.scores[: rows * last].view(rows, last)
        torch.mm(read, write.mT, out=scores)

        def share(some: slice) -> None:
            from dsf.systems.kernels.registers import target_of
            from dsf.systems.kernels.scalar_tiles import scratch_of, write_rows

            parts = (heads.decay, heads.step, heads.feedthrough, self.factor, self.product)
            arrays = [part[group, some].numpy() for part in parts]
            target = target_of(out[some].numpy(), clean=clean)
            scratch = scratch_of(scores.numpy(), heads.tiles)
            write_rows(scores.numpy(), *arrays, tile, first, heads.before, scratch, target, top)

        in_parallel(share, shares(out.shape[0]))


def diagonal_writer(system: System, last: int) -> RowWriter:
    pieces: list[Piece] = []

    def write(start: int, stop: int, out: Tensor, *, clean: bool = False) -> None:
        if not pieces:
            pieces.extend(pieces_of(system, at_once=stop == last))
        maps = out.view(-1, *out.shape[-2:])
        in_parallel(partial(Piece.fill, start=start, stop=stop, out=maps, clean=clean), pieces)

    return write


def pieces_of(system: System, *, at_once: bool) -> list["Piece"]:
    """The batch split along its last axis into one piece for every thread."""
    size = system.batch[-1] if system.batch else 1
    found = []
    for number, index in enumerate(product(*(range(axis) for axis in system.batch[:-1]))):
        for part in shares(size):
            some = (*index, part) if system.batch else (None,)
            found.append(Piece(system, some, number * size + part.start, at_once=at_once))
    return found


class Piece:
    """Some systems of a batch, and the matrices of the tiles so far, which later rows need."""

    def __init__(self, system: System, some: tuple[Any, ...], first: int, *, at_once: bool) -> None:
        from dsf.systems.kernels.diagonal_rows import TILE, Given, Kept
        from dsf.systems.kernels.registers import LINE

        A, (gain, write, read, through) = system.A, cast("Ports", ports_of(system))
        if isinstance(A, SampledDiagonal):
            decay, step = A.pole.unsqueeze(-2), A.step
        else:
            decay, step = cast("Diagonal", A).decay, gain.new_ones(()).expand(gain.shape)
        parts = (part[some] for part in (decay, step, write.mT, gain, read, through))
        stored = ((part[:1] if part.stride(0) == 0 else part) for part in parts)
        arrays = [part.detach().contiguous().numpy() for part in stored]
        sampled, before = isinstance(A, SampledDiagonal), system.reads_before_update
        self.given = Given._make([*arrays, sampled, before])
        self.systems = len(step[some])
        self.span = slice(first, first + self.systems)
        few, tiles = 1 if at_once else self.systems, -(-system.steps // TILE)
        number = self.given.read.dtype
        width = system.state_size + -system.state_size % (LINE // number.itemsize)
        self.kept = Kept(
            np.empty((few, tiles, width * TILE), number),
            np.empty((few, tiles, width)),
            np.zeros((few, TILE * TILE), number),
            np.empty((few, TILE * width), number),
        )
        self.entered = 0

    def fill(self, start: int, stop: int, out: Tensor, *, clean: bool) -> None:
        from dsf.systems.kernels.diagonal_rows import TILE, fill
        from dsf.systems.kernels.registers import target_of

        target = target_of(out[self.span].numpy(), clean=clean)
        fill(self.given, self.kept, self.systems, self.entered, start, stop, target)
        self.entered = -(-stop // TILE)
