"""How the time of a response grows with tokens, states and heads."""

from statistics import median

import torch

import dsf
from benchmarks.limits import processor_seconds
from dsf.mixers import StateSpaceDuality

ALONG = {
    "tokens": (512, 1024, 2048, 4096, 8192, 16384),
    "states": (16, 32, 64, 128, 256),
    "heads": (3, 6, 12, 24, 48),
}
USUAL = {"tokens": 2048, "states": 128, "heads": 24}


def growth() -> dict[str, list[tuple[int, float]]]:
    """Seconds of Mamba-2 with heads of 64 channels, one size changed at a time."""
    return {
        name: [(size, _seconds(**USUAL | {name: size})) for size in sizes]
        for name, sizes in ALONG.items()
    }


def _seconds(*, tokens: int, states: int, heads: int) -> float:
    rng = torch.Generator().manual_seed(0)
    mixer = StateSpaceDuality(
        value=torch.randn(heads, tokens, 64, generator=rng),
        step=0.1 * torch.rand(heads, tokens, generator=rng),
        pole=-torch.linspace(1, 16, heads),
        write=torch.randn(1, tokens, states, generator=rng),
        read=torch.randn(1, tokens, states, generator=rng),
    )
    system, signal = mixer.system(), mixer.signal()
    dsf.respond(system, signal)
    return median(processor_seconds(lambda: dsf.respond(system, signal)) for _ in range(3))
