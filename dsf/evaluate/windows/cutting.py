"""A system cut along time into windows, or along its batch into pieces that fit the cache."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dsf.systems.coefficient import SampledWrite, cut_of
from dsf.systems.system import System
from dsf.systems.transition import Diagonal, SampledDiagonal, ScaledIdentity
from dsf.systems.transition.storage import on_parts

# Structures whose tensors all begin with the batch axes.
PLAIN = (Tensor, SampledWrite, Diagonal, SampledDiagonal, ScaledIdentity)

# Numbers in the states of all tokens of a window. Measured with 64 channels of 16 states, 32 tokens
# and gradients: sequences one by one, 4, 16 or all 64 at once took 75, 52, 37 and 70 ms.
CACHED = 2**19


def cut(system: System, start: int, stop: int, *, dtype: torch.dtype) -> System:
    """The tokens ``start`` to ``stop - 1`` in the number type ``dtype``, without initial state.

    Lazily sampled decays will be computed in double precision, other parts in ``dtype``.
    """
    system.check_span(start, stop)
    return replace(
        system,
        A=system.A.cut(start, stop).to(dtype=dtype).finer(),
        B=cut_of(system.B, start, stop, dtype),
        C=cut_of(system.C, start, stop, dtype),
        D=cut_of(system.feedthrough, start, stop, dtype),
        initial=None,
    )


def cached(system: System, signal: Tensor, tokens: int) -> tuple[int, list[tuple[System, Tensor]]]:
    """Pieces of the batch whose states over ``tokens`` tokens fit the cache, and their axis."""
    axis = next((k for k, size in enumerate(system.batch) if size > 1), 0)
    numbers = system.batch.numel() * tokens * system.state_size * signal.shape[-1]
    parts = (system.A, system.B, system.C, system.feedthrough)
    divisible = system.batch.numel() > 1 and all(isinstance(part, PLAIN) for part in parts)
    if numbers <= CACHED or not divisible:
        return axis, [(system, signal)]
    few = max(1, system.batch[axis] * CACHED // numbers)
    once: dict[int, tuple[Tensor, tuple[Tensor, ...]]] = {}

    def piece(part: Any, k: int) -> Any:
        """Split once for all pieces: the gradient of every slice would be as large as the whole."""
        if isinstance(part, Tensor):
            if id(part) not in once:
                once[id(part)] = part, _split(part, few, axis)
            return once[id(part)][1][k]
        return on_parts(part, lambda stored: piece(stored, k))

    return axis, [
        (
            replace(
                system,
                A=piece(system.A, k),
                B=piece(system.B, k),
                C=piece(system.C, k),
                D=piece(system.feedthrough, k),
                initial=None if system.initial is None else piece(system.initial, k),
            ),
            piece(signal, k),
        )
        for k in range(-(-system.batch[axis] // few))
    ]


def _split(part: Tensor, few: int, axis: int) -> tuple[Tensor, ...]:
    """``part`` in pieces along ``axis``, with its other broadcast axes still stored once."""
    stored = part
    for k, size in enumerate(part.shape):
        if size > 1 and part.stride(k) == 0 and k != axis:
            stored = stored.narrow(k, 0, 1)
    spread = list(part.shape)
    pieces = stored.split(few, dim=axis)
    return tuple(
        piece.expand(*spread[:axis], piece.shape[axis], *spread[axis + 1 :]) for piece in pieces
    )
