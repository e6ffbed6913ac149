"""Responses of RWKV-7, S4, S5 and the LRU: the compiled loop beside the operations of torch.

*Without the loop* is what a machine without numba computes, ``DSF_KERNELS=0``: matrix products in
windows of tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor

import dsf
from benchmarks.evaluation import Row, measured
from benchmarks.layers import RNG, normal, steps
from benchmarks.limits import Needs
from dsf.mixers import LRU, RWKV7, S4, S5
from dsf.mixers.base import Mixer


def rwkv7(tokens: int, *, heads: int = 12, width: int = 64) -> list[Row]:
    """RWKV-7. The limit is four multiply-adds a number of the state: two reads and two writes."""
    size = (heads, tokens, width)
    direction = torch.nn.functional.normalize(normal(*size), dim=-1)
    mixer = RWKV7(
        query=normal(*size),
        key=normal(*size) * width**-0.5,
        value=normal(*size),
        log_decay=-0.6 * torch.rand(*size, generator=RNG),
        removal=-direction,
        replacement=direction * torch.rand(*size, generator=RNG),
    )
    numbers = heads * tokens * width
    limit = Needs(4.0 * width * numbers, 6 * numbers, numbers)
    return _compared(f"RWKV-7, {tokens} tokens", mixer, limit)


def s4(tokens: int, *, channels: int = 256, states: int = 64) -> list[Row]:
    """S4 with a state space for every channel."""
    mixer = S4(
        value=normal(channels, tokens, 1),
        pole=torch.complex(-0.1 - torch.rand(states, generator=RNG), 3 * normal(states)),
        low_rank_left=-0.5 * _complex(states) * states**-0.5,
        low_rank_right=0.5 * _complex(states) * states**-0.5,
        write=_complex(states),
        read=_complex(states),
        step=steps(channels),
        feedthrough=normal(channels),
    )
    return _compared(f"S4, {tokens} tokens", mixer)


def s5(tokens: int, *, channels: int = 512, states: int = 256) -> list[Row]:
    """S5: all channels write to and read from one state."""
    mixer = S5(
        value=normal(1, tokens, channels),
        pole=torch.complex(-0.1 - torch.rand(states, generator=RNG), 3 * normal(states)),
        write=_complex(states, channels) * channels**-0.5,
        read=_complex(channels, states),
        step=steps(states),
        feedthrough=normal(channels),
    )
    return _compared(f"S5, {tokens} tokens", mixer)


def lru(tokens: int, *, channels: int = 256, states: int = 256) -> list[Row]:
    """The linear recurrent unit."""
    mixer = LRU(
        value=normal(1, tokens, channels),
        log_radius=-3 + torch.rand(states, generator=RNG),
        log_phase=normal(states),
        write=_complex(states, channels) * channels**-0.5,
        read=_complex(channels, states),
        feedthrough=normal(channels),
    )
    return _compared(f"LRU, {tokens} tokens", mixer)


def _complex(*size: int) -> Tensor:
    return torch.complex(normal(*size), normal(*size))


def _compared(case: str, mixer: Mixer, limit: Needs | None = None) -> list[Row]:
    system, signal = mixer.system(), mixer.signal()
    wide = dsf.systems.algebra.converted(system, dtype=torch.float64)
    exact = dsf.respond(wide, signal.double(), method="chunkwise")
    out = dsf.respond(system, signal)
    works: dict[str, Callable[[], Tensor]] = {
        "dsf": lambda: dsf.respond(system, signal, out=out),
        "dsf, fresh memory": lambda: dsf.respond(system, signal),
        "without the loop": lambda: dsf.respond(system, signal, method="chunkwise"),
    }
    return measured(case, works, exact.flatten(-2), limit)
