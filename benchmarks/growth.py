"""How time grows with tokens, states and heads: responses, maps and statistics of Mamba-2."""

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch

import dsf
from benchmarks import maps, row_statistics
from benchmarks.limits import processor_seconds
from dsf import measures
from dsf.mixers import StateSpaceDuality

Points = list[tuple[int, float]]
USUAL = {"tokens": 2048, "states": 128, "heads": 24}


def growth() -> dict[str, Points]:
    """Seconds by what grows; everything else stays as it is in a layer of 24 heads."""
    return {
        "response: tokens": _along(partial(_response, "tokens"), 512, 16384),
        "response: states": _along(partial(_response, "states"), 16, 256),
        "response: heads": _along(partial(_response, "heads"), 3, 48),
        "map: tokens": _along(lambda tokens: maps.ours(maps.duality(24, tokens)), 256, 4096),
        "statistics: tokens": _along(_statistics, 2048, 65536),
    }


def _along(work_of: Callable[[int], Callable[[], Any]], first: int, last: int) -> Points:
    """Sizes that double."""
    points, size = [], first
    while size <= last:
        work = work_of(size)
        work()
        points.append((size, median(processor_seconds(work) for _ in range(3))))
        size *= 2
    return points


def _response(changed: str, size: int) -> Callable[[], Any]:
    sizes = USUAL | {changed: size}
    rng = torch.Generator().manual_seed(0)
    tokens, states, heads = sizes["tokens"], sizes["states"], sizes["heads"]
    mixer = StateSpaceDuality(
        value=torch.randn(heads, tokens, 64, generator=rng),
        step=0.1 * torch.rand(heads, tokens, generator=rng),
        pole=-torch.linspace(1, 16, heads),
        write=torch.randn(1, tokens, states, generator=rng),
        read=torch.randn(1, tokens, states, generator=rng),
    )
    return partial(dsf.respond, mixer.system(), mixer.signal())


def _statistics(tokens: int) -> Callable[[], Any]:
    """Five of every head, leaving out what stays below 1e-6."""
    system = row_statistics.layer(tokens, row_statistics.FEWER).system()
    return lambda: measures.streamed(system, *row_statistics.MEASURES, error=row_statistics.ERROR)
