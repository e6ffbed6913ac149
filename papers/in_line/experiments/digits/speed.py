"""Processor time of one head of softmax and of InLine attention against the number of tokens."""

import time
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dsf import respond
from dsf.mixers import InLineAttention, SoftmaxAttention

WIDTH = 64
TOKENS = (64, 128, 256, 512, 1024, 2048, 4096)
REPEATS = 7

Head = Float[Tensor, "tokens width"]


def softmax_by_its_map(query: Head, key: Head, value: Head) -> Head:
    """Form the map, then apply it: ``4 N² d`` operations."""
    return torch.softmax(query @ key.mT * WIDTH**-0.5, dim=-1) @ value


def in_line_by_its_sums(query: Head, key: Head, value: Head) -> Head:
    """The paper's order of operations, ``4 N d²``, for the scores of the published models."""
    scale = WIDTH**-0.5 / len(key)
    share = 1 - scale * (query @ key.sum(dim=0)).unsqueeze(-1)
    return scale * (query @ (key.mT @ value)) + share * value.mean(dim=0)


def softmax_by_dsf(query: Head, key: Head, value: Head) -> Head:
    """``dsf.respond``: torch's fused attention, which never holds the map."""
    mixer = SoftmaxAttention(query=query, key=key, value=value, causal=False)
    return respond(mixer.system(), mixer.signal()).squeeze(-2)


def in_line_by_dsf(query: Head, key: Head, value: Head) -> Head:
    """``dsf.respond``: a forward and a backward system, as any non-causal mixer of finite state."""
    scale = WIDTH**-0.5 / len(key)
    mixer = InLineAttention(query=scale * query, key=key, value=value, causal=False)
    return respond(mixer.system(), mixer.signal()).squeeze(-2)


METHODS: dict[str, Callable[[Head, Head, Head], Head]] = {
    "softmax_by_its_map": softmax_by_its_map,
    "in_line_by_its_sums": in_line_by_its_sums,
    "softmax_by_dsf": softmax_by_dsf,
    "in_line_by_dsf": in_line_by_dsf,
}


def times(tokens: tuple[int, ...] = TOKENS, *, repeats: int = REPEATS) -> list[dict[str, float]]:
    """Milliseconds of one thread, the least of ``repeats``, per method; one row a length."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for length in tokens:
        head = torch.randn(3, length, WIDTH, generator=generator)
        row = {"tokens": length} | {
            name: min(_milliseconds(method, *head) for _ in range(repeats))
            for name, method in METHODS.items()
        }
        rows.append(row)
    return rows


def _milliseconds(method: Callable[[Head, Head, Head], Head], *head: Head) -> float:
    """Of one call; short ones are repeated until the clock can tell."""
    calls = 0
    started = time.process_time()
    with torch.inference_mode():
        while calls == 0 or time.process_time() - started < 0.01:
            method(*head)
            calls += 1
    return 1000 * (time.process_time() - started) / calls
