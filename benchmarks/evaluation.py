"""Responses of layers of real size beside the model library's own path and the machine's limit.

    python -m benchmarks

One process, one thread, single precision, methods in turns, medians of the time at work. ``error``
is relative to the same numbers taken in double precision, ``ratio`` what the method takes over what
dsf takes.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan
from transformers.models.qwen3_next.modeling_qwen3_next import (
    torch_chunk_gated_delta_rule,
    torch_recurrent_gated_delta_rule,
)

import dsf
from benchmarks import layers, peers
from benchmarks.limits import Needs, interleaved
from benchmarks.record import Row, row

Works = dict[str, Callable[[], Tensor]]
# Beyond this, of two ways of one library that take seconds only its usual one is timed.
SHORT = 8192


def selective(tokens: int, *, channels: int = 1536, states: int = 16) -> list[Row]:
    """Case 1: Mamba. The limit is nine multiply-adds a state and token.

    The exponent, a polynomial of degree four (the least that gives single precision for decays
    close to one), the product with the exponent and the state, the drive, the new state, the read.
    """
    mixer = layers.selective(tokens, channels, states)
    numbers = tokens * channels
    limit = Needs(9.0 * numbers * states, 2 * numbers + 2 * tokens * states, numbers)
    return compared(f"Mamba, {tokens} tokens", mixer, peers.selective(mixer), limit)


def dual(tokens: int, *, heads: int = 24, width: int = 64, states: int = 128) -> list[Row]:
    """Case 2: Mamba-2. The limit is two multiply-adds a number of the state and token."""
    mixer = layers.dual(tokens, heads, width, states)
    value, step, write, read = (
        part.movedim(1, 2).contiguous()
        for part in (mixer.value, mixer.step, mixer.write, mixer.read)
    )

    sizes = (64, 256) if tokens <= SHORT else (256,)

    def library(size: int) -> Tensor:
        found = mamba2_chunk_scan(
            value, step, mixer.pole, write, read, chunk_size=size, D=mixer.feedthrough
        )
        return found.reshape(value.shape).movedim(1, 2)

    works = {f"library, chunks of {size}": lambda size=size: library(size) for size in sizes}
    works |= peers.dual(mixer)
    numbers = heads * width * tokens
    limit = Needs(2.0 * states * numbers, numbers + 2 * states * tokens, numbers)
    return compared(f"Mamba-2, {tokens} tokens", mixer, works, limit)


def gated_delta(tokens: int, *, heads: int = 8, width: int = 128) -> list[Row]:
    """Case 3: the gated delta rule. The limit is three multiply-adds a number of the state."""
    mixer = layers.gated_delta(tokens, heads, width)
    parts = (mixer.query * width**0.5, mixer.key, mixer.value, mixer.log_decay, mixer.rate)
    theirs = [part.movedim(1, 2).contiguous() for part in parts]

    def chunks() -> Tensor:
        return torch_chunk_gated_delta_rule(*theirs)[0].movedim(1, 2)

    def loop() -> Tensor:
        return torch_recurrent_gated_delta_rule(*theirs, None, False)[0].movedim(1, 2)

    works = {"library, chunks": chunks, "library, recurrent": loop}
    numbers = heads * width * tokens
    limit = Needs(3.0 * width * numbers, 3 * numbers, numbers)
    return compared(f"Gated delta rule, {tokens} tokens", mixer, works, limit)


def gated_linear(tokens: int, *, heads: int = 4, keys: int = 128, width: int = 256) -> list[Row]:
    """Case 4: gated linear attention. The limit is two multiply-adds a number of the state."""
    mixer = layers.gated_linear(tokens, heads, keys, width)

    def loop() -> Tensor:
        state, found = torch.zeros(heads, keys, width), []
        decays = mixer.log_decay[0].exp()
        for t in range(tokens):
            new = mixer.key[0, :, t, :, None] * mixer.value[0, :, t, None]
            state = decays[:, t, :, None] * state + new
            found.append(mixer.query[0, :, t, None] @ state)
        return torch.cat(found, dim=1)

    numbers = heads * tokens
    limit = Needs(2.0 * keys * width * numbers, numbers * (3 * keys + width), numbers * width)
    return compared(f"GLA, {tokens} tokens", mixer, {"loop of torch": loop}, limit)


def compared(case: str, mixer: Any, works: Works, limit: Needs | None) -> list[Row]:
    """Rows of one case: dsf, the others, and the limit."""
    system, signal = mixer.system(), mixer.signal()
    exact = dsf.respond(dsf.systems.algebra.converted(system, dtype=torch.float64), signal.double())
    out = dsf.respond(system, signal)
    ours = {
        "dsf": lambda: dsf.respond(system, signal, out=out),
        "dsf, fresh memory": lambda: dsf.respond(system, signal),
    }
    return measured(case, {**ours, **works}, shown(exact), limit)


def measured(case: str, works: Works, exact: Tensor, limit: Needs | None = None) -> list[Row]:
    """Rows of some ways to one response, the first of which is ours.

    ``exact`` holds it in double precision, or as many of its last axis as are looked at.
    """
    errors = {"limit": 0.0}

    def look(name: str, result: Any) -> None:
        if name in works:
            seen = result.reshape(*exact.shape[:-1], -1)[..., : exact.shape[-1]]
            errors[name] = float((seen - exact).norm() / exact.norm())

    taken = interleaved(works, rounds=3, look=look, limit=limit)
    mine = taken[next(iter(works))]
    return [row(case, name, seconds, mine, errors[name]) for name, seconds in taken.items()]


def shown(response: Tensor) -> Tensor:
    """Without the axes of single ports."""
    return response[..., 0, 0] if response.shape[-1] == 1 else response.squeeze(-2)
