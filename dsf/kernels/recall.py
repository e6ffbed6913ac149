"""What a memory of matrices answers, head by head: the loops of :mod:`dsf.kernels.memories` called.

Long sequences go in segments, so that what is prepared for a loop stays in the cache; what is left
of the last chunk is filled up with tokens that do nothing.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from dsf.kernels.diagonal_memories import diagonal_chunks
from dsf.kernels.memories import CHUNK, scalar_chunks
from dsf.kernels.spreading import in_parallel

SEGMENT = 32 * CHUNK


@dataclass(frozen=True)
class Memories:
    """Coefficients of many heads; ``write`` and ``read`` may be stored once for all of them.

    Attributes:
        decay: one factor a token, or one for every state.
        gain: what the signal is multiplied by on its way in.
        look: for a delta rule the vectors at which the memory is looked up; else no heads at all.
    """

    decay: Float[Tensor, "head time"] | Float[Tensor, "head time state"]
    gain: Float[Tensor, "head time"]
    write: Float[Tensor, "stored time state"]
    read: Float[Tensor, "stored time state"]
    look: Float[Tensor, "looking time state"]
    signal: Float[Tensor, "head time channel"]

    def each(self, act: Any) -> "Memories":
        """The same with ``act`` done on every part."""
        return replace(
            self, **{field.name: act(getattr(self, field.name)) for field in fields(self)}
        )

    def by_states(self, act: Any) -> "Memories":
        """The same with ``act`` done on every part that has states."""
        names = ["write", "read", "look", *(["decay"] if self.decay.ndim > 2 else [])]
        return replace(self, **{name: act(getattr(self, name)) for name in names})


def recall(
    parts: Memories,
    skip: Float[Tensor, " head"],
    memory: Float[Tensor, "head state channel"],
    response: Float[Tensor, "head time channel"],
    *,
    before: bool,
) -> Float[Tensor, "head state channel"]:
    """Fill ``response`` from the state ``memory``, and return the state after the last token."""
    states = memory.shape[-2]
    missing = -states % 4
    if missing:
        parts = parts.by_states(lambda part: pad(part, (0, missing)))
    held = pad(memory.double(), (0, 0, 0, missing)).clone(memory_format=torch.contiguous_format)
    parts = parts.each(lambda part: part.detach().contiguous())
    heads, workers = len(held), torch.get_num_threads()
    share = -(-heads // workers)

    def run(first: int) -> None:
        some = slice(first, first + share)
        ours = parts.each(lambda part: part if len(part) != heads else part[some])
        _walk(ours, skip[some].contiguous(), held[some], response[some], before)

    in_parallel(run, range(0, heads, share))
    return held[:, :states].to(memory.dtype)


def _walk(parts: Memories, skip: Tensor, held: Tensor, response: Tensor, before: bool) -> None:
    whole = parts.signal.shape[1] // CHUNK * CHUNK
    rest = parts.signal.shape[1] - whole
    _chunks(parts, skip, held, response, before, whole)
    if rest:
        last = parts.each(lambda part: _filled_up(part[:, whole:], 0.0))
        last = replace(last, decay=_filled_up(parts.decay[:, whole:], 1.0))
        answer = torch.zeros_like(last.signal)
        _chunks(last, skip, held, answer, before, CHUNK)
        response[:, whole:] = answer[:, :rest]


def _filled_up(part: Tensor, by: float) -> Tensor:
    missing = CHUNK - part.shape[1]
    return pad(part, (0, 0) * (part.ndim - 2) + (0, missing), value=by)


def _chunks(
    parts: Memories, skip: Tensor, held: Tensor, response: Tensor, before: bool, end: int
) -> None:
    ends = [part.numpy() for part in (parts.signal, held, response)]
    decay, gain, skips, read, look = (
        part.numpy() for part in (parts.decay, parts.gain, skip, parts.read, parts.look)
    )
    if decay.ndim > 2:
        diagonal_chunks(decay, gain, skips, read, look, parts.write.numpy(), *ends, before, end)
        return
    for begin in range(0, end, SEGMENT):
        span = slice(begin, min(begin + SEGMENT, end))
        send = _by_chunk(parts.write[:, span]).mT.contiguous()
        seen = _by_chunk(parts.read[:, span]) @ send
        found = _by_chunk(parts.look[:, span]) @ send[: len(look)]
        prepared = (part.numpy() for part in (send, seen, found))
        scalar_chunks(decay, gain, skips, read, look, *prepared, *ends, before, begin)


def _by_chunk(part: Tensor) -> Tensor:
    return part.unflatten(1, (-1, CHUNK))
